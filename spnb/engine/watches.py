"""Watches of a rank's waits, and the end of all ranks where one fails or does not answer."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import WaitTimeout
from ..transport.signs_of_life import LOOK_EVERY, SignsOfLife, no_answer

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

    A rank that is alone on its host is not watched, unless it is the one that waits.

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

    def watch() -> None:
        if missing := signs.missing():
            print(f"spnb: {no_answer(missing, deadline)}", file=sys.stderr, flush=True)
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # MPI says more
            transport.parent.Abort(1)

    return watch


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
