"""Tensors on a device, over a carrier that reads only the host's memory."""

from __future__ import annotations

import torch

from . import Arrival, Transport


class _Landing:
    """A message that arrives in the host's memory, and goes on to the device."""

    def __init__(self, arrival: Arrival, host: torch.Tensor, buffer: torch.Tensor):
        self.arrival, self.source = arrival, arrival.source
        self._host, self._buffer, self._landed = host, buffer, False

    def done(self) -> bool:
        """Whether it has arrived."""
        return self.arrival.done() and self.land()

    def land(self) -> bool:
        """Copy what has arrived to the device."""
        if not self._landed:
            self._buffer.copy_(self._host)
            self._landed = True
        return True


class Staged:
    """A carrier whose messages go through the host's memory.

    Parameters
    ----------
    transport
        The carrier.
    device
        Where tensors are.
    """

    def __init__(self, transport: Transport, device: torch.device):
        self.transport, self.device = transport, device

    @property
    def rank(self) -> int:
        """Number of the rank."""
        return self.transport.rank

    def hear(self) -> None:
        self.transport.hear()

    def send(self, target: int, tag: int, tensor: torch.Tensor) -> None:
        self.transport.send(target, tag, tensor.to("cpu"))

    def receive(self, source: int, tag: int, buffer: torch.Tensor) -> Arrival:
        pinned = self.device.type == "cuda"
        host = torch.empty(buffer.shape, dtype=buffer.dtype, device="cpu", pin_memory=pinned)
        return _Landing(self.transport.receive(source, tag, host), host, buffer)

    def wait(self, arrivals: list[Arrival]) -> None:
        self.transport.wait([each.arrival for each in arrivals])
        for each in arrivals:
            each.land()

    def flush(self) -> None:
        self.transport.flush()

    def barrier(self) -> None:
        self.transport.barrier()

    def fail(self, reason: str) -> None:
        self.transport.fail(reason)


def reaching(transport: Transport | None, device: torch.device) -> Transport | None:
    """A carrier for tensors on a device: as it is, or through the host's memory."""
    return transport if transport is None or transport.takes(device) else Staged(transport, device)
