"""What the environment of a process says of its launch by mpiexec or srun."""

from __future__ import annotations

from collections.abc import Mapping

MARKS = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK")
"""Environment variables that mpiexec and srun set for each rank."""

SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
"""Environment variables with the number of ranks of a launch."""


def number_of_ranks(environment: Mapping[str, str]) -> int:
    """The number of ranks, or of other tasks, of a launch; 1 for a process of its own.

    >>> number_of_ranks({"PMI_SIZE": "4"}), number_of_ranks({})
    (4, 1)
    """
    return next((int(environment[name]) for name in SIZES if name in environment), 1)
