"""A carrier with more latency and less bandwidth than it has: messages arrive later, and unchanged.

Each message goes at once, and before it the time at which it is to arrive.  The receiver looks away
until then::

    sender    ── 12.007 s ──►  ── message ──►             the link is busy up to 12.002, and
    receiver                     here already  …  12.007   5 ms later the message is here

So a rank that computes meanwhile sends no later, and all that depends on other ranks, such as their
failures, is as before.  The clocks of hosts must agree, as those of one host do.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from ..ir.link import SlowLink
from .base import Arrival, Transport
from .wrapped import Wrapped


class _LateArrival:
    """A message that may be here already, but is not to be read before its time."""

    def __init__(self, source: int, header: Arrival, due: torch.Tensor, message: Arrival):
        self.source, self.parts = source, (header, message)
        self._due, self._time = due, 0.0

    def done(self) -> bool:
        """Whether it has arrived."""
        if not all(part.done() for part in self.parts):
            return False
        self._time = self._time or float(self._due)
        return time.time() >= self._time


class SlowTransport(Wrapped):
    """A carrier whose link is slow.

    Parameters
    ----------
    transport
        The carrier.
    link
        The link's latency and bandwidth, beside those of the carrier.
    """

    def __init__(self, transport: Transport, link: SlowLink):
        super().__init__(transport)
        self.link = link
        self._free = 0.0  # the link carries earlier messages up to this time

    def send(self, target: int, tag: int, tensor: torch.Tensor) -> None:
        size = tensor.numel() * tensor.element_size()
        self._free = max(time.time(), self._free) + size / self.link.bandwidth
        due = torch.tensor([self._free + self.link.latency], dtype=torch.float64)
        self.transport.send(target, tag, due.to(tensor.device))
        self.transport.send(target, tag, tensor)

    def receive(self, source: int, tag: int, buffer: torch.Tensor) -> Arrival:
        due = torch.empty(1, dtype=torch.float64, device=buffer.device)
        header = self.transport.receive(source, tag, due)
        return _LateArrival(source, header, due, self.transport.receive(source, tag, buffer))

    def wait(self, arrivals: Sequence[Arrival]) -> None:
        self.transport.wait(arrivals)
        late = [each for each in arrivals if isinstance(each, _LateArrival)]
        self.transport.wait([part for each in late for part in each.parts])  # it counts its own


def slowed(transport: Transport, link: SlowLink | None) -> Transport:
    """A carrier with a slow link, if one is asked for."""
    return transport if link is None else SlowTransport(transport, link)
