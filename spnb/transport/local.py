"""All ranks as threads of one process, for tests and to try a plan."""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch

from ..errors import PeerFailed, WaitTimeout
from .base import Arrival

T = TypeVar("T")

LOOK_AGAIN = 0.002
"""Most seconds between two looks at the messages that are awaited."""


class World:
    """The mailboxes that the ranks of one process share."""

    def __init__(self, num_ranks: int, deadline: float = 3600.0):
        self.num_ranks, self.deadline = num_ranks, deadline
        self.changed = threading.Condition()
        self.boxes: dict[tuple[int, int, int], deque[torch.Tensor]] = defaultdict(deque)
        self.failure: tuple[int, str] | None = None
        self._barrier = threading.Barrier(num_ranks)

    def run(self, work: Callable[[LocalTransport], T]) -> list[T]:
        """Do the work of every rank in a thread of its own, and return the results in rank order.

        Raises
        ------
        Exception
            The first failure, if any rank fails.
        """
        with ThreadPoolExecutor(self.num_ranks) as pool:
            futures = [pool.submit(work, LocalTransport(self, r)) for r in range(self.num_ranks)]
        errors = [error for f in futures if (error := f.exception()) is not None]
        for error in sorted(errors, key=lambda e: isinstance(e, (PeerFailed, WaitTimeout))):
            raise error
        return [future.result() for future in futures]


@dataclass
class _Arrival:
    world: World
    source: int
    box: deque[torch.Tensor]
    buffer: torch.Tensor
    arrived: bool = False

    def done(self) -> bool:
        if not self.arrived and self.box:
            self.buffer.copy_(self.box.popleft())
            self.arrived = True
        return self.arrived


class LocalTransport:
    """One rank's end of a `World`."""

    def __init__(self, world: World, rank: int):
        self.world, self.rank, self.num_ranks = world, rank, world.num_ranks

    @property
    def size(self) -> int:
        """Number of all ranks."""
        return self.world.num_ranks

    def begin_call(self) -> None:
        """Nothing to do: after a failure, a world is not used again."""

    def supports(self, device: torch.device) -> bool:
        return True

    def send(self, target: int, tag: int, tensor: torch.Tensor) -> None:
        with self.world.changed:
            self.world.boxes[self.rank, target, tag].append(tensor)
            self.world.changed.notify_all()

    def receive(self, source: int, tag: int, buffer: torch.Tensor) -> _Arrival:
        with self.world.changed:  # two ranks must not make the same box
            box = self.world.boxes[source, self.rank, tag]
        return _Arrival(self.world, source, box, buffer)

    def wait(self, arrivals: Sequence[Arrival]) -> None:
        world = self.world
        with world.changed:
            in_time = self._wait_for(lambda: all(a.done() for a in arrivals))
            late = sorted({a.source for a in arrivals if not a.done()})
        if world.failure and world.failure[0] != self.rank:
            raise PeerFailed(world.failure[1])
        if not in_time:
            raise WaitTimeout(f"nothing from ranks {late} for {world.deadline:g} s")

    def _wait_for(self, done: Callable[[], bool]) -> bool:
        """Wait until done, or until a rank failed; False after the deadline.

        It looks again after each message, and from time to time: some messages are late (see
        `spnb.transport.slow_link`).
        """
        world, end = self.world, time.monotonic() + self.world.deadline
        while not (world.failure or done()):
            if time.monotonic() > end:
                return False
            world.changed.wait(LOOK_AGAIN)
        return True

    def flush(self) -> None:
        """Nothing to do: the mailbox holds the tensor itself."""

    def barrier(self) -> None:
        try:
            self.world._barrier.wait(self.world.deadline)
        except threading.BrokenBarrierError:
            raise PeerFailed((self.world.failure or (-1, "a rank did not come"))[1]) from None

    def fail(self, reason: str) -> None:
        with self.world.changed:
            self.world.failure = self.world.failure or (self.rank, reason)
            self.world.changed.notify_all()
        self.world._barrier.abort()
