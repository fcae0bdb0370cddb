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
    order: float = 2.0,
) -> float:
    """Scale gradients so that the norm of those of all ranks together is at most a number.

    Every rank must be called.  The gradient of a parameter that several ranks share is counted by
    the first of them only.  (`torch.nn.utils.clip_grad_norm_` does the same in one process.)

    Parameters
    ----------
    parameters
        The rank's, by name, with their gradients; one that has several names counts once.
    buckets
        Which ranks share which parameters.
    transport
        Carries the norms.
    num_ranks
        Number of ranks.
    most
        The largest norm.
    order
        Order of the norm; infinity for the largest gradient.

    Returns
    -------
    float
        The norm of all gradients before they were scaled.
    """
    rank = transport.rank
    sharing = {name: bucket.ranks for bucket in buckets for name in bucket.names}
    each = {id(parameter): (name, parameter.grad) for name, parameter in parameters.items()}
    gradients = [(name, grad) for name, grad in each.values() if grad is not None]
    counted = [grad for name, grad in gradients if min(sharing.get(name, [rank])) == rank]
    norms = torch.zeros(num_ranks, dtype=torch.float64)
    norms[rank] = _norm([_norm(grad, order) for grad in counted], order)
    AllReduce(norms, range(num_ranks), transport, NORM.tag()).result()
    norm = float(_norm(norms, order))
    factor = most / (norm + 1e-6)  # as in PyTorch
    for _, gradient in gradients:
        if not factor >= 1:  # a norm that is not a number makes gradients so, as in PyTorch
            gradient.mul_(factor)
    return norm


def _norm(values: torch.Tensor | list[torch.Tensor], order: float) -> torch.Tensor:
    """The norm of numbers in fp64; zero of none."""
    flat = (
        values.abs().double().flatten()
        if torch.is_tensor(values)
        else torch.tensor(values).double()
    )
    return torch.linalg.vector_norm(flat, order).cpu() if flat.numel() else torch.zeros(())
