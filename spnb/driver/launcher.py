"""Whether an MPI launcher started this process.

Neither torch nor mpi4py is imported here: the command line calls this before it loads them.
"""

from __future__ import annotations

import os

MARKS = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK")
"""Environment variables that mpiexec and srun set for each rank."""


FIRST_MARKS = ("MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID")
"""Environment variables with the number of a rank among those of its host."""


def under_mpi() -> bool:
    """Whether a launcher started this process as one of several MPI ranks."""
    return any(mark in os.environ for mark in MARKS)


def is_first_of_host() -> bool:
    """Whether this process is the first of its host, or was not started by a launcher."""
    return next((os.environ[mark] == "0" for mark in FIRST_MARKS if mark in os.environ), True)


def launched_rank() -> int:
    """The number that a launcher gave this process; 0 for one that no launcher started."""
    return next((int(os.environ[mark]) for mark in MARKS if mark in os.environ), 0)
