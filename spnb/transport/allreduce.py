"""Sums over several ranks, by the messages that every carrier has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from ..ir.tags import SUM
from .base import Arrival, Transport


class AllReduce:
    """The sum of one tensor from each of several ranks; all of them get the same bits.

    Chunks travel around a ring twice: the first time they are summed, the second time the sums are
    distributed.  With any number of ranks, each sends less than twice the size of the tensor
    (Patarasuk and Yuan, *Bandwidth optimal all-reduce algorithms for clusters of workstations*,
    2009)::

        rank 0    a0 b0 c0          a0 B  c01          A B C
        rank 1    a1 b1 c1    ──►   a01 b1 C    ──►    A B C        A = a0 + a1 + a2, …
        rank 2    a2 b2 c2          A  b12 c2          A B C

    A chunk on its way to be summed is sent from the tensor's own memory: it changes there only when
    its sum arrives, which contains it, so it has been read by then.  Sums are sent as copies, since
    the tensor is its owner's as soon as all have arrived.

    The sum begins when the object is made, and continues at each call of `advance`, between other
    work.

    Parameters
    ----------
    tensor
        A contiguous tensor, of the same shape and type on all ranks; it becomes the sum.
    ranks
        The ranks that take part, in the same order on all of them.
    tag
        Tag of its messages; sums at the same time have different tags.

    Examples
    --------
    >>> from spnb.transport.local import World
    >>> ones = World(3).run(lambda t: AllReduce(torch.ones(4), (0, 1, 2), t).result())
    >>> [each.tolist() for each in ones]
    [[3.0, 3.0, 3.0, 3.0], [3.0, 3.0, 3.0, 3.0], [3.0, 3.0, 3.0, 3.0]]
    """

    def __init__(
        self,
        tensor: torch.Tensor,
        ranks: Sequence[int],
        transport: Transport,
        tag: int = SUM.first,
    ):
        self.ranks, self.transport, self.tag = list(ranks), transport, tag
        self._tensor = tensor
        self._messages = self._go_around()
        self._awaited = next(self._messages, None)

    def _go_around(self) -> Iterator[Arrival]:
        """Send and receive the chunks; yield each message to wait for."""
        count = len(self.ranks)
        chunks = self._tensor.view(-1).tensor_split(count)
        here = self.ranks.index(self.transport.rank)
        after, before = self.ranks[(here + 1) % count], self.ranks[here - 1]
        for turn in range(2 * (count - 1)):
            out, back = (here - turn) % count, (here - turn - 1) % count
            if turn < count - 1:
                buffer = torch.empty_like(chunks[back])
                arrival = self.transport.receive(before, self.tag, buffer)
                self.transport.send(after, self.tag, chunks[out])
                yield arrival
                chunks[back].add_(buffer)
            else:
                arrival = self.transport.receive(before, self.tag, chunks[back])
                self.transport.send(after, self.tag, chunks[out].clone())
                yield arrival

    def _receive(self, arrival: Arrival) -> None:
        self.transport.wait([arrival])
        self._awaited = next(self._messages, None)

    def advance(self) -> bool:
        """Handle the messages that have arrived, without waiting; return whether more will come."""
        while self._awaited is not None and self._awaited.done():
            self._receive(self._awaited)
        return self._awaited is not None

    def result(self) -> torch.Tensor:
        """Wait for the sum, and return it."""
        while self._awaited is not None:
            self._receive(self._awaited)
        return self._tensor
