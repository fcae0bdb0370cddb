"""Sends tensors in a device's memory over a carrier that only reads the host's memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .base import Arrival, Transport
from .wrapped import Wrapped


class _StagedArrival:
    """A message that arrives in the host's memory, and is copied to the device."""

    def __init__(self, arrival: Arrival, host: torch.Tensor, buffer: torch.Tensor):
        self.arrival, self.source = arrival, arrival.source
        self._host, self._buffer, self._copied = host, buffer, False

    def done(self) -> bool:
        """Whether it has arrived."""
        return self.arrival.done() and self.copy()

    def copy(self) -> bool:
        """Copy the message to the device, once; returns True."""
        if not self._copied:
            self._buffer.copy_(self._host)
            self._copied = True
        return True


class HostStaged(Wrapped):
    """A carrier for a device's tensors; messages are copied through the host's memory.

    Parameters
    ----------
    transport
        The carrier.
    device
        The device that has the tensors in its memory.
    """

    def __init__(self, transport: Transport, device: torch.device):
        super().__init__(transport)
        self.device = device

    def supports(self, device: torch.device) -> bool:
        return device == self.device

    def send(self, target: int, tag: int, tensor: torch.Tensor) -> None:
        self.transport.send(target, tag, tensor.to("cpu"))

    def receive(self, source: int, tag: int, buffer: torch.Tensor) -> Arrival:
        page_locked = self.device.type == "cuda"
        host = torch.empty(buffer.shape, dtype=buffer.dtype, device="cpu", pin_memory=page_locked)
        return _StagedArrival(self.transport.receive(source, tag, host), host, buffer)

    def wait(self, arrivals: Sequence[Arrival]) -> None:
        staged = [_as_staged(each) for each in arrivals]
        self.transport.wait([each.arrival for each in staged])
        for each in staged:
            each.copy()


def _as_staged(arrival: Arrival) -> _StagedArrival:
    """A message that `HostStaged.receive` returned, by its own type."""
    assert isinstance(arrival, _StagedArrival)  # `HostStaged.receive` returns no other
    return arrival


def staged_for(transport: Transport, device: torch.device) -> Transport:
    """A carrier for tensors on a device: the same one, or one through the host's memory."""
    if transport.supports(device):
        return transport
    return HostStaged(transport, device)
