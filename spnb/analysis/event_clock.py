"""The time of all simulated ranks: who works, who waits, and which cores they share.

All ranks that work at a moment go on equally fast, and those that wait take no core::

    3 ranks on 2 cores     rank 0  ███████████ 2/3 of a core each, until rank 1 waits
                           rank 1  ███████▒▒▒▒
                           rank 2  ███████████ then a core each
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from typing import Protocol

from ..ir.cost import Machine

Key = tuple[int, int, int, int]
"""A message: source, target, tag and micro-batch."""

Pause = float | Key
"""Why a rank does not go on: seconds of work, or a message that it waits for."""


class Working(Protocol):
    """A rank that a clock lets go on.

    Attributes
    ----------
    rank
        Its number.
    threads
        Cores that its operators use, if they are free.
    cores
        The same of all ranks that it stands for.
    """

    rank: int
    threads: int
    cores: int

    def run(self) -> Iterator[Pause]:
        """Go on until a pause."""


class Clock:
    """The time of all ranks, the cores that they share, and the messages between them.

    Attributes
    ----------
    now
        Seconds since the start.
    arrivals
        When each message arrives that was sent and is not read yet.
    """

    def __init__(self, machine: Machine):
        self.now = 0.0
        self.arrivals: dict[Key, float] = {}
        self._cores = machine.cores or math.inf
        self._busy = 0  # cores that the ranks which work would use
        self._done = 0.0  # seconds of work that a rank would have done by now without a wait
        self._working: list[tuple[float, int]] = []  # when `_done` is so large, the rank goes on
        self._sleeping: list[tuple[float, int]] = []  # at these times ranks go on
        self._waiting: dict[Key, int] = {}

    @property
    def waiting(self) -> list[int]:
        """Ranks that wait for a message which was not sent."""
        return sorted(set(self._waiting.values()))

    def run(self, ranks: Sequence[Working]) -> None:
        """Run all ranks to their ends."""
        by_number = {rank.rank: rank for rank in ranks}
        runs = {rank.rank: rank.run() for rank in ranks}
        for rank in ranks:
            self._go_on(rank, runs[rank.rank])
        while self._working or self._sleeping:
            rate = min(1.0, self._cores / self._busy) if self._busy else 1.0
            end = math.inf
            if self._working:
                end = self.now + (self._working[0][0] - self._done) / rate
            if self._sleeping and self._sleeping[0][0] <= end:
                end, number = heapq.heappop(self._sleeping)
            else:
                _, number = heapq.heappop(self._working)
                self._busy -= by_number[number].cores
            end = max(end, self.now)
            self._done += (end - self.now) * rate
            self.now = end
            self._go_on(by_number[number], runs[number])

    def _go_on(self, rank: Working, run: Iterator[Pause]) -> None:
        """Let a rank go on until it works or waits."""
        pause = next(run, None)
        if isinstance(pause, float):
            self._busy += rank.cores
            heapq.heappush(self._working, (self._done + pause / rank.threads, rank.rank))
        elif pause in self.arrivals:
            heapq.heappush(self._sleeping, (self.arrivals[pause], rank.rank))
        elif pause is not None:
            self._waiting[pause] = rank.rank

    def send(self, key: Key, arrival: float) -> None:
        """Send a message that arrives at a time."""
        self.arrivals[key] = arrival
        if key in self._waiting:
            heapq.heappush(self._sleeping, (arrival, self._waiting.pop(key)))
