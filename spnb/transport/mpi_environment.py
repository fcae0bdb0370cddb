"""What MPI needs of a host before it starts: shared memory, open files, a network interface.

Without them the library would end the ranks by a signal, or wait for a minute.  mpi4py is not
imported here: the library reads its variables when it starts.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path

from ..errors import StartError
from ..ir.launch import number_of_ranks
from .mpi_family import PMI2, launcher_of_rank, library_of_process, refuse_two, start_mpi

SHARED = Path("/dev/shm")
"""The file system of shared memory, through which the ranks of a host exchange messages."""

KIB, MIB = 1 << 10, 1 << 20
_USUAL = 5400 * KIB  # of shared memory that MPICH takes for each rank (measured)
_FEW_QUEUES = {"UCX_POSIX_FIFO_SIZE": "64", "UCX_POSIX_SEG_SIZE": "1024"}
_SIZES = {
    _USUAL: {},
    1700 * KIB: _FEW_QUEUES,  # UCX's own queues: MPICH has others for the ranks of a host
    800 * KIB: {**_FEW_QUEUES, "MPIR_CVAR_CH4_SHM_POSIX_IQUEUE_NUM_CELLS": "8"},
    700 * KIB: {**_FEW_QUEUES, "MPIR_CVAR_CH4_SHM_POSIX_IQUEUE_NUM_CELLS": "2"},
}
"""Variables with which MPICH takes so many bytes of shared memory for each rank (measured)."""


def on_one_host(ranks: int, room: int | None) -> dict[str, str]:
    """Return the variables for ranks that are all on one host, but for those that are set already.

    No rank listens on the network then.

    Parameters
    ----------
    ranks
        Number of the ranks.
    room
        Bytes of shared memory that they can take; None if the system hides it.

    Raises
    ------
    StartError
        If they need more.

    Examples
    --------
    >>> on_one_host(16, 64 << 20)["UCX_POSIX_FIFO_SIZE"]
    '64'
    """
    found = {"UCX_TLS": "^tcp"}
    for each, variables in _SIZES.items():
        if room is None or ranks * each <= room:
            found |= variables
            return {name: value for name, value in found.items() if name not in os.environ}
    raise StartError(
        f"{ranks} ranks need {ranks * min(_SIZES) / MIB:.1f} MiB of shared memory, and {SHARED} has"
        f" {(room or 0) / MIB:.1f} MiB: start fewer, or make it larger (docker run --shm-size=1g)"
    )


def free_shared_memory() -> int | None:
    """Bytes of shared memory that are free; None if the system hides it."""
    return shutil.disk_usage(SHARED).free if SHARED.is_dir() else None


def require_files(needed: int) -> None:
    """Let this process, and those that it starts, have so many open files.

    Raises
    ------
    StartError
        If the system allows fewer.
    """
    import resource  # as MPI itself, Windows lacks it

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise StartError(
            f"a process needs {needed} open files, and may have {hard}: raise the limit"
            f" (ulimit -n {max(1024, needed)}), or start fewer ranks"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def require_loopback() -> None:
    """Refuse a host on which processes cannot reach each other by 127.0.0.1.

    Raises
    ------
    StartError
        With the system's reason.
    """
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=5.0).close()
    except OSError as error:
        raise StartError(
            f"no process can be reached at 127.0.0.1 ({error.strerror or error}), where engines"
            " and this process would connect: bring the interface lo up (ip link set lo up)"
        ) from None


def prepare_rank(environment: Mapping[str, str] = os.environ) -> None:
    """Start MPI in a process of a launcher, before it imports mpi4py.

    Raises
    ------
    StartError
        If MPI could not start.
    """
    _prepare_host(environment)
    launcher = launcher_of_rank(environment)
    if launcher is None:
        return
    ranks, hosts = number_of_ranks(environment), environment.get("SLURM_STEP_NUM_NODES", "1")
    if launcher.name == PMI2 and ranks > int(hosts):
        # With several ranks on a host, MPICH 5.0 sends Slurm's PMI parts of its memory in place of
        # UCX's addresses, and waits for ever.
        os.environ.setdefault("MPIR_CVAR_CH4_NETMOD", "ofi")
    library = library_of_process()
    refuse_two(launcher, library)
    start_mpi(launcher, library, ranks)


def _prepare_host(environment: Mapping[str, str]) -> None:
    """Raise limits, and set variables for the ranks of a host."""
    here, everywhere = environment.get("MPI_LOCALNRANKS"), environment.get("PMI_SIZE")
    if here is None:  # not MPICH's mpiexec
        return
    require_files(38 + 2 * int(here))
    if here == everywhere:
        # The free space would change as other ranks start, and all must have the same variables.
        room = shutil.disk_usage(SHARED).total if SHARED.is_dir() else None
        os.environ.update(on_one_host(int(here), room))
