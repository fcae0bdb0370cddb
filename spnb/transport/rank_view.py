"""The part of a carrier that belongs to one of several replicas of a plan."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .base import Arrival, Transport


class RankView:
    """One replica's messages on a carrier that serves several; ranks have the plan's numbers.

    Parameters
    ----------
    transport
        The carrier.
    ranks
        The carrier's rank for each rank of the plan.
    shift
        Added to each tag, so that messages of different replicas have different tags.
    """

    def __init__(self, transport: Transport, ranks: Sequence[int], shift: int = 0):
        self.transport, self.ranks, self.shift = transport, ranks, shift

    @property
    def rank(self) -> int:
        """Number of the rank in the plan."""
        return self.ranks.index(self.transport.rank)

    def send(self, target: int, tag: int, tensor: torch.Tensor) -> None:
        self.transport.send(self.ranks[target], tag + self.shift, tensor)

    def receive(self, source: int, tag: int, buffer: torch.Tensor) -> Arrival:
        return self.transport.receive(self.ranks[source], tag + self.shift, buffer)

    def wait(self, arrivals: Sequence[Arrival]) -> None:
        self.transport.wait(arrivals)
