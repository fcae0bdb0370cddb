"""Interrupts (Ctrl-C) of calls that would not end in order by themselves.

In a process that a launcher started, Python raises a KeyboardInterrupt only when a call into C
returns, and the end of MPI waits for all ranks.  In the user's own process, calls of ipyparallel's
that start processes would be left half done.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn, TextIO

from .launcher import launched_rank

INTERRUPTED = 130
"""The exit code after an interrupt."""

PATIENCE = 1.0
"""Seconds in which a process may end by itself."""


@contextmanager
def interrupts_delayed() -> Iterator[None]:
    """Raise the interrupt that comes in a block at the block's end; a second one at once.

    The block may be a call that starts processes: it then returns, and what it started is known and
    can be ended.
    """
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield  # no interrupt is raised here
        return
    first: list[FrameType | None] = []

    def note(number: int, frame: FrameType | None) -> None:
        if first:
            handler(number, frame)
        first.append(frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if first:
        handler(signal.SIGINT, first[0])


@contextmanager
def interrupts_not_lost() -> Iterator[None]:
    """Raise an interrupt again that comes while an object is removed.

    Python prints what is raised there, with a traceback, and goes on.
    """
    shown = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            # In a moment: at once it would be raised in this function, and lost again.
            threading.Timer(0.05, _thread.interrupt_main).start()
        else:
            shown(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = shown


def end_after_an_interrupt() -> None:
    """From now on, let an interrupt end this process within seconds; rank 0 says so in a line."""
    wakes, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    told = os.fdopen(os.dup(sys.stderr.fileno()), "w")
    threading.Thread(target=_watch, args=(wakes, told), daemon=True).start()


def end_now() -> NoReturn:
    """End this process with MPI, but without the seconds that Python takes to remove its modules.

    Without MPI's own end the launcher would report a crash.  What MPICH then prints, of messages
    that the interrupt left, is no news.  If another rank does not come to it,
    the process ends by `end_after_an_interrupt`.
    """
    from mpi4py import MPI

    sys.stdout.flush()
    sys.stderr.flush()
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), sys.stderr.fileno())
    MPI.Finalize()
    os._exit(INTERRUPTED)


def _watch(wakes: int, told: TextIO) -> None:
    """Wait for the number of the signal, which Python's handler in C writes at once."""
    while os.read(wakes, 1) != bytes([signal.SIGINT]):
        pass
    if launched_rank() == 0:
        print("spnb: interrupted", file=told, flush=True)
    time.sleep(PATIENCE)
    os._exit(INTERRUPTED)
