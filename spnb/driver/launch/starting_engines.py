"""Engines that are starting on this host: which of their processes stand still, and MPI's files."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import psutil

from ...ir.launch import MARKS
from ...transport.signs_of_life import SignsOfLife, no_answer
from . import watchdog

Progress = Callable[[str, int, int], None]
"""Called with the name of a stage of the start, the number of engines ready, and of all."""

LOOK_EVERY = 0.5
"""Seconds between two looks at the processes."""


class StartingEngines:
    """Watches the processes of a start; later each engine tells of itself.

    Parameters
    ----------
    launcher
        The process that starts them; all are below it.
    deadline
        Seconds without a sign of life after which a process counts as one that does not answer.

    Attributes
    ----------
    files
        MPICH's files that they have used.  One of shared memory has a name only while MPI starts;
        if a rank is killed then, nobody else removes it.
    """

    def __init__(self, launcher: psutil.Process, deadline: float):
        self.files: set[str] = set()
        self._launcher = launcher
        self._signs = SignsOfLife({}, deadline)
        self._looked = 0.0
        self._others = _segments()

    def look(self) -> str:
        """The sentence about a process that does not answer; "" if there is none."""
        if _segments() - self._others - self.files:
            self.files |= watchdog.files_of_mpi(self._family())
        if (now := time.monotonic()) > self._looked + LOOK_EVERY:
            self._looked = now
            self._signs.watch({process.pid: process.pid for process in self._family()})
        missing = self._signs.missing()
        return no_answer(_name(missing[0]), self._signs.deadline) if missing else ""

    def _family(self) -> list[psutil.Process]:
        return watchdog.family([self._launcher])


def _segments() -> set[str]:
    """The files of shared memory that have names now."""
    try:
        return {f"/dev/shm/{name}" for name in os.listdir("/dev/shm") if name.startswith("mpich_")}
    except OSError:
        return set()  # another system


def _name(pid: int) -> str:
    """What a process is: a rank, or a program."""
    try:
        process = psutil.Process(pid)
        environment = process.environ()
        ranks = [environment[mark] for mark in MARKS if mark in environment]
        return f"rank {ranks[0]}" if ranks else process.name()
    except psutil.Error:
        return f"process {pid}"
