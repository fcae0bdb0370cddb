"""Limits the norm of all gradients together, which no rank has alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from ..ir.tags import NORM
from ..transport import Transport
from ..transport.allreduce import AllReduce
from .reducer import Bucket


def clip_gradients(
    parameters: Mapping[str, torch.Tensor],
    buckets: Iterable[Bucket],
    transport: Transport,
    num_ranks: int,
    most: float,
) -> float:
    """Scale gradients so that the norm of those of all ranks together is at most a number.

    Every rank must be called.  The gradient of a parameter that several ranks share is counted by
    the first of them only.  (`torch.nn.utils.clip_grad_norm_` does the same in one process.)

    Parameters
    ----------
    parameters
        The rank's, by name, with their gradients.
    buckets
        Which ranks share which parameters.
    transport
        Carries the sum.
    num_ranks
        Number of ranks.
    most
        The largest norm.

    Returns
    -------
    float
        The norm of all gradients before they were scaled.
    """
    rank = transport.rank
    sharing = {name: bucket.ranks for bucket in buckets for name in bucket.names}
    counted = [p for name, p in parameters.items() if min(sharing.get(name, [rank])) == rank]
    squares = [p.grad.double().square().sum() for p in counted if p.grad is not None]
    own = torch.tensor([sum(map(float, squares))], dtype=torch.float64)
    total = AllReduce(own, range(num_ranks), transport, NORM.tag()).result()
    norm = float(total) ** 0.5
    factor = most / (norm + 1e-6)  # as in PyTorch
    for parameter in parameters.values():
        if parameter.grad is not None and factor < 1:
            parameter.grad.mul_(factor)
    return norm
