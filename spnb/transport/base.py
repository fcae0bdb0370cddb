"""The contract between a rank's program and a carrier of its messages.

Every carrier promises four things.  A wait can be interrupted, has a deadline, ends when another
rank fails, and leaves the processor to ranks that compute.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch


class Arrival(Protocol):
    """A message on its way to this rank."""

    source: int

    def done(self) -> bool:
        """Whether it has arrived."""


class Messages(Protocol):
    """The part of a carrier that a rank's program uses: tensors to and from other ranks."""

    @property
    def rank(self) -> int:
        """Number of this rank among all ranks that the carrier numbers."""

    def send(self, target: int, tag: int, tensor: torch.Tensor) -> None:
        """Start to send a contiguous tensor, which must not change until `flush`."""

    def receive(self, source: int, tag: int, buffer: torch.Tensor) -> Arrival:
        """Start to receive into a contiguous tensor; messages of one tag arrive in order."""

    def wait(self, arrivals: Sequence[Arrival]) -> None:
        """Wait until all have arrived; meanwhile the processor is free for other ranks.

        Raises
        ------
        PeerFailed
            If another rank fails meanwhile.
        WaitTimeout
            If the deadline passes.
        """


class Transport(Messages, Protocol):
    """All of a carrier, as a rank's worker uses it: messages, and calls of all ranks together.

    Attributes
    ----------
    num_ranks
        Number of the ranks that take part in calls; they are the first ones of the carrier.
    """

    num_ranks: int

    @property
    def size(self) -> int:
        """Number of all ranks of the carrier."""

    def begin_call(self) -> None:
        """Begin a call of all ranks; messages of an earlier, failed call are ignored from now on.

        Raises
        ------
        PeerFailed
            If another rank has already failed in the same call.
        """

    def supports(self, device: torch.device) -> bool:
        """Whether it carries tensors in the memory of a device."""

    def flush(self) -> None:
        """Wait until all tensors that were sent may be changed again."""

    def barrier(self) -> None:
        """Wait until every rank of the plan has called this."""

    def fail(self, reason: str) -> None:
        """Report to every other rank that this one has failed, with the reason.

        A rank that waits raises `PeerFailed`.  A rank that does not wait ignores the messages of
        the failed call when it begins its next call.
        """


@contextmanager
def among(transport: Transport, num_ranks: int) -> Iterator[None]:
    """Let the first ranks of a carrier take part in the calls of a context, and no others.

    Parameters
    ----------
    transport
        The carrier.
    num_ranks
        Their number.
    """
    before, transport.num_ranks = transport.num_ranks, num_ranks
    try:
        yield
    finally:
        transport.num_ranks = before
