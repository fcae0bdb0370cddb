"""Slurm, asked by its commands: the script of a batch job of engines, and the state of the job."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from .placement import Placement

OF_STEPS = {"SLURM_OVERLAP": "1", "SLURM_CPU_BIND": "none"}
"""Variables by which mpiexec's processes share the cores of a job with what runs there, and its
ranks all cores of a host with each other."""

WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "SUSPENDED")
"""States of a job that has not started, or has paused."""


def step_fits(placement: Placement, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether engines are a step of the allocation that this process is in.

    A job of its own is asked for where there is no allocation, and where it has too few nodes, or
    the user names a partition or a time.

    Examples
    --------
    >>> job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "4"}
    >>> step_fits(Placement("slurm", nodes=4), job), step_fits(Placement("slurm", nodes=8), job)
    (True, False)
    """
    if "SLURM_JOB_ID" not in environment or placement.partition or placement.time:
        return False
    return (placement.nodes or 1) <= int(environment.get("SLURM_JOB_NUM_NODES", "1"))


def batch_script(
    placement: Placement, command: Sequence[str], *, name: str, ranks: str, output: str = ""
) -> str:
    """The script of a batch job.

    Parameters
    ----------
    placement
        Nodes, partition and time.
    command
        The command of the job.
    name
        Name of the job.
    ranks
        Number of the ranks.
    output
        The file for what they print; by default Slurm's own.

    Examples
    --------
    >>> print(batch_script(Placement("slurm", nodes=2), ["srun", "hostname"], name="n", ranks="4"))
    #!/bin/sh
    #SBATCH --job-name=n
    #SBATCH --ntasks=4
    #SBATCH --nodes=2
    srun hostname
    <BLANKLINE>
    """
    options = {
        "job-name": name,
        "ntasks": ranks,
        "nodes": placement.nodes,
        "partition": placement.partition,
        "time": placement.time,
        "output": output,
    }
    lines = [f"#SBATCH --{key}={value}" for key, value in options.items() if value]
    return "\n".join(["#!/bin/sh", *lines, shlex.join(command), ""])


def state_of(job: str) -> tuple[str, str]:
    """The state of a job and the reason for it; empty once Slurm has forgotten the job."""
    state, _, reason = told(["squeue", "--noheader", "--jobs", job, "--format", "%T|%r"]).partition(
        "|"
    )
    return state.strip(), reason.strip()


def told(command: Sequence[str]) -> str:
    """What a command of Slurm prints; both of its streams."""
    return ran(command).stdout


def ran(command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command of Slurm; its output has both of its streams."""
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        **options,
    )
