"""The contract between a rank's program and whatever carries its messages.

Every carrier keeps four promises.  A wait can be interrupted, has a deadline, ends when another
rank fails, and leaves the processor to the ranks that compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch


class Arrival(Protocol):
    """A message on its way to this rank."""

    source: int

    def done(self) -> bool:
        """Whether it has arrived."""


class Messages(Protocol):
    """What a rank's program asks of a carrier: tensors to and from the other ranks."""

    @property
    def rank(self) -> int:
        """Number of this rank among all ranks that the carrier numbers."""

    def send(self, target: int, tag: int, tensor: torch.Tensor) -> None:
        """Start to send a contiguous tensor, which must not change until `flush`."""

    def receive(self, source: int, tag: int, buffer: torch.Tensor) -> Arrival:
        """Start to receive into a contiguous tensor; messages of one tag arrive in order."""

    def wait(self, arrivals: Sequence[Arrival]) -> None:
        """Wait until all have arrived; between two looks the processor is free for others.

        Raises
        ------
        PeerFailed
            If another rank fails meanwhile.
        WaitTimeout
            If the deadline passes.
        """


class Transport(Messages, Protocol):
    """What a rank's worker asks of a carrier: its messages, and calls of all ranks together."""

    def begin_call(self) -> None:
        """Begin a call of all ranks: messages of an earlier call that failed are left behind.

        Raises
        ------
        PeerFailed
            If another rank has already failed in this very call.
        """

    def supports(self, device: torch.device) -> bool:
        """Whether it carries tensors that lie in the memory of such a device."""

    def flush(self) -> None:
        """Wait until everything that was sent has left its buffers."""

    def barrier(self) -> None:
        """Wait until every rank of the plan has called this."""

    def fail(self, reason: str) -> None:
        """Send every other rank word that this one has failed, and why; the reason names it.

        A rank that waits raises `PeerFailed`.  A rank that does not wait leaves the messages of
        the failed call behind when it begins its next call.
        """
