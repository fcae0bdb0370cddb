"""Carriers of bytes between ranks, behind one small contract.

`spnb.transport.local` carries between threads of one process, `spnb.transport.mpi` between MPI
processes.  Whatever the carrier, a wait can be interrupted, has a deadline, and ends when another
rank fails.
"""

from __future__ import annotations

from typing import Protocol

import torch


class Arrival(Protocol):
    """A message on its way to this rank."""

    source: int

    def done(self) -> bool:
        """Whether it has arrived."""


class Transport(Protocol):
    """What a rank's worker asks of a carrier."""

    rank: int

    def hear(self) -> None:
        """Begin: whatever is left of a call that failed, here or elsewhere, stays behind."""

    def takes(self, device: torch.device) -> bool:
        """Whether it carries tensors that are on such a device."""

    def send(self, target: int, tag: int, tensor: torch.Tensor) -> None:
        """Start sending a contiguous tensor, which must not change until `flush`."""

    def receive(self, source: int, tag: int, buffer: torch.Tensor) -> Arrival:
        """Start receiving into a contiguous tensor; messages of one tag arrive in order."""

    def wait(self, arrivals: list[Arrival]) -> None:
        """Wait politely until all have arrived.

        Raises
        ------
        PeerFailed
            If another rank failed meanwhile.
        WaitTimeout
            If the deadline passes.
        """

    def flush(self) -> None:
        """Wait until everything sent has left its buffers."""

    def barrier(self) -> None:
        """Wait until every rank of the plan is here."""

    def fail(self, reason: str) -> None:
        """Tell every other rank that this one has failed; the reason names it.

        Those that wait raise `PeerFailed`; whose next call it reaches first begins that anew.
        """
