"""Whether an MPI launcher started this process, and what a launch leaves in its environment.

Neither torch nor mpi4py is imported here: the command line calls this before it loads them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping

from ...errors import StartError
from ...ir.launch import MARKS, number_of_ranks

FIRST_MARKS = ("MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID")
"""Environment variables with the number of a rank among those of its host."""

OF_A_LAUNCH = re.compile(
    r"PMI\d?_|PMIX_|HYDI_|HYDRA_(HOST_FILE|RMK|LAUNCHER)|MPI_LOCAL"
    r"|OMPI_(?!MCA_|ALLOW_)|OMPI_MCA_(orte|ess|initial_wdir)|PRTE_(?!MCA_)|PRTE_MCA_(prte|ess)"
)
"""Pattern of the names of variables by which a launcher describes a launch to its ranks."""

OF_A_JOB = re.compile(r"SLURM_(?!CPUS_ON_NODE|TMPDIR)|PBS_|LSB_|PE_HOSTFILE|OAR_|COBALT_")
"""Pattern of the names of variables by which a scheduler describes a job to its processes."""


def under_mpi(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a launcher started this process as one of several MPI ranks.

    A launch of one process is none: a server of notebooks is started so, and what is run from it
    starts its own ranks.

    Parameters
    ----------
    environment
        Variables of the process.

    Raises
    ------
    StartError
        If it is one of several tasks of ``srun`` that are no ranks.

    Examples
    --------
    >>> under_mpi({"PMI_RANK": "0", "PMI_SIZE": "4"})
    True
    >>> under_mpi({"PMIX_RANK": "0", "SLURM_STEP_NUM_TASKS": "1"})
    False
    """
    size = number_of_ranks(environment)
    launched = any(mark in environment for mark in MARKS)
    if not launched and size > 1 and "SLURM_STEP_ID" in environment:
        raise StartError(
            f"srun started {size} tasks, but not as ranks of MPI: add --mpi=pmi2 for MPICH, or"
            " --mpi=pmix for Open MPI (srun --mpi=list shows what there is)"
        )
    return launched and size > 1


def is_first_of_host() -> bool:
    """Whether this process is the first of its host, or was not started by a launcher."""
    return next((os.environ[mark] == "0" for mark in FIRST_MARKS if mark in os.environ), True)


def launched_rank() -> int:
    """The number that a launcher gave this process; 0 for one that no launcher started."""
    return next((int(os.environ[mark]) for mark in MARKS if mark in os.environ), 0)


def of_another_launch(names: Iterable[str] = os.environ, job: bool = True) -> list[str]:
    """Names of variables that ranks must not inherit, since they are not of this process's launch.

    Parameters
    ----------
    names
        Names of variables.
    job
        Whether those of a scheduler's job are among them.

    Examples
    --------
    >>> of_another_launch(["PMI_FD", "PATH", "SLURM_JOB_ID", "OMPI_MCA_btl", "PMIX_RANK"])
    ['PMI_FD', 'SLURM_JOB_ID', 'PMIX_RANK']
    """
    return [name for name in names if OF_A_LAUNCH.match(name) or (job and OF_A_JOB.match(name))]
