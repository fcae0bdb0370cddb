"""Watches of a rank's waits, and the end of all ranks where one fails or does not answer."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import psutil

from ..errors import WaitTimeout
from ..transport.host_beats import HostBeats, star_of
from ..transport.signs_of_life import LOOK_EVERY, SignsOfLife, no_answer

PATIENCE = 3.0
"""Seconds that MPI has to end all ranks, where a host does not answer."""

PASSED_ON = 0.2
"""Seconds in which mpiexec passes a line on, before it learns that all ranks end."""

if TYPE_CHECKING:
    from ..transport.mpi import MPITransport


def ending_all(show: Callable[..., None], abort: Callable[[int], None]) -> Callable[..., None]:
    """A handler of an exception that nothing catches: it shows it, and ends all processes.

    Parameters
    ----------
    show
        Shows an exception.
    abort
        Ends all processes with an exit code.
    """

    def handler(*error: Any) -> None:
        show(*error)
        sys.stderr.flush()
        abort(1)

    return handler


def end_all_if_one_is_missing(transport: MPITransport, deadline: float) -> Callable[[], None]:
    """A watch for a rank's waits: it ends all processes if one of this host does not answer.

    A host that does not answer ends all too, on both sides of its link: see
    `spnb.transport.host_beats`.  So does the process that launched the ranks of this host, as the
    proxy of mpiexec: MPI's own end would wait for it.  Collective.

    Parameters
    ----------
    transport
        Has the processes of this host.
    deadline
        Seconds without a sign of life.
    """
    # The ranks of a host end all in turn, so that one of them says why.
    turn = 2 * LOOK_EVERY * transport.local_rank
    signs = SignsOfLife(transport.local_pids, deadline + turn)
    launcher = os.getppid()
    launched = SignsOfLife({launcher: launcher}, deadline + turn)

    def watch() -> None:
        if missing := signs.missing():
            _end_all(transport, no_answer(missing, deadline))
        if launched.missing():
            with contextlib.suppress(OSError):  # another user's
                os.kill(launcher, signal.SIGCONT)  # so that it passes on the line, and ends all
            _end_all(transport, no_answer("the launcher of the ranks", deadline))

    def end(hosts: list[str]) -> None:
        if not hosts:
            time.sleep(1.0)  # in which the host that noticed says why
        # MPI cannot end ranks beyond a cut link, and may wait for it.
        threading.Timer(PATIENCE, _end_host, [transport]).start()
        _end_all(transport, hosts_do_not_answer(hosts, deadline))

    if star := star_of(transport.parent, first_of_host=transport.local_rank == 0):
        HostBeats(star, deadline, end)
    return watch


def launcher_goes_on() -> bool:
    """Whether the process that launched this rank is not stopped; MPI's end would wait for it."""
    try:
        return psutil.Process(os.getppid()).status() != psutil.STATUS_STOPPED
    except psutil.Error:
        return True


def hosts_do_not_answer(hosts: Sequence[str], deadline: float) -> str:
    """The sentence about hosts that do not answer; "" for none.

    >>> hosts_do_not_answer(["node2"], 60)
    'host node2 does not answer for 60 s (its link is cut, or it is down)'
    """
    if not hosts:
        return ""
    who = f"host {hosts[0]} does" if len(hosts) == 1 else f"hosts {', '.join(hosts)} do"
    return f"{who} not answer for {deadline:g} s (its link is cut, or it is down)"


def _end_all(transport: MPITransport, why: str) -> None:
    """End all ranks by MPI, with a line that says why."""
    if why:
        print(f"spnb: {why}", file=sys.stderr, flush=True)
        time.sleep(PASSED_ON)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # MPI says more
    transport.parent.Abort(1)


def _end_host(transport: MPITransport) -> None:
    """End the ranks of this host, and this process last."""
    for pid in transport.local_pids.values():
        if pid != os.getpid():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    os._exit(1)


def fail_if_one_is_missing(transport: MPITransport, deadline: float) -> Callable[[], None]:
    """A watch for a rank's waits: it raises if a rank of this host does not answer.

    Parameters
    ----------
    transport
        Has the processes of this host.
    deadline
        Seconds without a sign of life.

    Raises
    ------
    WaitTimeout
        By the function that is returned.
    """
    signs = SignsOfLife(transport.local_pids, deadline)

    def watch() -> None:
        if missing := signs.missing():
            raise WaitTimeout(no_answer(missing, deadline))

    return watch


def watched_elsewhere() -> None:
    """The watch of ranks that another process watches."""
