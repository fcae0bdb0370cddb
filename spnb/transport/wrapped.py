"""A carrier that passes on to another one what it does not change."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .base import Arrival, Transport


class Wrapped:
    """All of a carrier; a subclass changes some of it.

    Parameters
    ----------
    transport
        The carrier.
    """

    def __init__(self, transport: Transport):
        self.transport = transport

    @property
    def rank(self) -> int:
        """Number of the rank."""
        return self.transport.rank

    @property
    def size(self) -> int:
        """Number of all ranks of the carrier."""
        return self.transport.size

    @property
    def num_ranks(self) -> int:
        """Number of the ranks that take part in calls."""
        return self.transport.num_ranks

    @num_ranks.setter
    def num_ranks(self, count: int) -> None:
        self.transport.num_ranks = count

    def begin_call(self) -> None:
        self.transport.begin_call()

    def supports(self, device: torch.device) -> bool:
        return self.transport.supports(device)

    def send(self, target: int, tag: int, tensor: torch.Tensor) -> None:
        self.transport.send(target, tag, tensor)

    def receive(self, source: int, tag: int, buffer: torch.Tensor) -> Arrival:
        return self.transport.receive(source, tag, buffer)

    def wait(self, arrivals: Sequence[Arrival]) -> None:
        self.transport.wait(arrivals)

    def flush(self) -> None:
        self.transport.flush()

    def barrier(self) -> None:
        self.transport.barrier()

    def fail(self, reason: str) -> None:
        self.transport.fail(reason)
