"""Signs of life of the ranks of this host: a stopped process shows none, one that computes does.

Only the system can tell the two apart: neither answers a message.  So the states of the processes
are read, by the processes that wait for them; nothing is added to a rank that computes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence

import psutil

LOOK_EVERY = 2.0
"""Most seconds between two looks at the processes."""

STILL = (psutil.STATUS_STOPPED, psutil.STATUS_DISK_SLEEP)
"""States in which a process does not go on: it is stopped, or waits for a page or a file."""


class SignsOfLife:
    """Finds ranks of this host that show no sign of life for some time.

    Such a rank was stopped by a signal, or waits for a disk (as one that is swapped out does) and
    uses no processor time.  A rank that computes, or that waits for another rank, is alive.

    Parameters
    ----------
    pids
        Process id of each rank, by its number.
    deadline
        Seconds without a sign of life after which a rank counts as one that does not answer.
    clock
        Returns seconds; tests have one of their own.

    Examples
    --------
    >>> import os
    >>> SignsOfLife({0: os.getpid()}, deadline=60.0).missing()
    []
    """

    def __init__(
        self,
        pids: Mapping[int, int],
        deadline: float,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.deadline = deadline
        self._clock = clock
        self._processes: dict[int, psutil.Process] = {}
        self.watch(pids)
        self._seen: dict[int, tuple] = {}
        self._seconds: dict[int, float] = {}
        self._looked_at = clock() - LOOK_EVERY

    def watch(self, pids: Mapping[int, int]) -> None:
        """Look at more processes from now on, by their numbers."""
        for rank, pid in pids.items():
            if rank not in self._processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    self._processes[rank] = psutil.Process(pid)

    def missing(self) -> list[int]:
        """Ranks without a sign of life since the deadline; cheap enough for every moment."""
        elapsed, every = self._clock() - self._looked_at, min(LOOK_EVERY, self.deadline / 4)
        if elapsed >= every or self._late():  # one that is late may go on just now
            self._looked_at += elapsed
            # This process may have been stopped too, and the others go on an instant later.
            self._look(min(elapsed, 2 * every))
        return self._late()

    def _late(self) -> list[int]:
        return [rank for rank, seconds in self._seconds.items() if seconds >= self.deadline]

    def _look(self, elapsed: float) -> None:
        for rank, process in self._processes.items():
            try:
                state = process.status()
                seen = (state, process.cpu_times()) if state in STILL else ()
            except psutil.Error:  # it has ended, and the launcher reports that
                seen = ()
            if seen and self._seen.get(rank) == seen:
                self._seconds[rank] = self._seconds.get(rank, 0.0) + elapsed
            else:
                self._seconds.pop(rank, None)
            self._seen[rank] = seen


def no_answer(missing: Sequence[int] | str, deadline: float) -> str:
    """The sentence about ranks, or another process by its name, that do not answer.

    >>> no_answer([2], 60)
    'rank 2 does not answer for 60 s (stopped, or swapping?)'
    """
    if isinstance(missing, str):
        who = f"{missing} does"
    else:
        who = f"rank {missing[0]} does" if len(missing) == 1 else f"ranks {list(missing)} do"
    return f"{who} not answer for {deadline:g} s (stopped, or swapping?)"
