"""Sums over several ranks, made of the messages that every carrier has."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .transport import Transport

SUM_TAG = (1 << 15) + 128
"""Of the messages that sums are made of: beyond those of any plan, and of cells."""


def summed(tensor: torch.Tensor, ranks: Sequence[int], transport: Transport) -> torch.Tensor:
    """The sum of what each of some ranks has; the same on all of them to the last bit.

    Chunks travel around a ring twice, first to be summed and then to be spread, so that each rank
    sends less than two times the tensor however many they are (Patarasuk and Yuan, *Bandwidth
    optimal all-reduce algorithms for clusters of workstations*, 2009)::

        rank 0    a0 b0 c0          a0 B  c01          A B C
        rank 1    a1 b1 c1    ──►   a01 b1 C    ──►    A B C        A = a0 + a1 + a2, …
        rank 2    a2 b2 c2          A  b12 c2          A B C

    Parameters
    ----------
    tensor
        Of one shape and type on all ranks.
    ranks
        Who takes part, in the same order on all of them.

    Examples
    --------
    >>> from spnb.transport.local import World
    >>> ones = World(3).run(lambda t: summed(torch.ones(4), (0, 1, 2), t))
    >>> [each.tolist() for each in ones]
    [[3.0, 3.0, 3.0, 3.0], [3.0, 3.0, 3.0, 3.0], [3.0, 3.0, 3.0, 3.0]]
    """
    count, here = len(ranks), list(ranks).index(transport.rank)
    after, before = ranks[(here + 1) % count], ranks[here - 1]
    chunks = list(tensor.reshape(-1).clone().tensor_split(count))
    for turn in range(2 * (count - 1)):
        out, back = (here - turn) % count, (here - turn - 1) % count
        buffer = torch.empty_like(chunks[back])
        arrival = transport.receive(before, SUM_TAG, buffer)
        transport.send(after, SUM_TAG, chunks[out].clone())
        transport.wait([arrival])
        chunks[back] = chunks[back] + buffer if turn < count - 1 else buffer
    transport.flush()
    return torch.cat(chunks).reshape(tensor.shape)
