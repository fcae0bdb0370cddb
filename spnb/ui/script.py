"""Writes the script of a run for a scheduler or a shell; nothing is started."""

from __future__ import annotations

import argparse
import os
import shlex
import sys

from ..driver.launch.engines_command import mpiexec_in, path_of_engines
from ..driver.launch.slurm import batch_script
from ..errors import OptionError
from ..job.job_plan import plan
from ..runtime.allocator import joining_blocks
from ..transport.mpi_family import OPEN_MPI, Inquiry
from . import flags
from .job_of_line import job_of_args


def write_script(args: argparse.Namespace, asked: argparse.Namespace) -> int:
    """Print the script of a run; return the exit code.

    Parameters
    ----------
    args
        The run: a parsed line of its verb.
    asked
        The parsed line of ``script``: where the ranks are to run, and the words of the run.
    """
    where = flags.placement(asked)
    if where.is_here:
        raise OptionError("a script needs a launcher: give --launcher slurm, mpiexec or ssh")
    job = job_of_args(args)
    ranks = plan(job, training=args.verb == "train").num_ranks
    environment = os.environ | {"PATH": path_of_engines()}
    inquiry = Inquiry(mpiexec_in(environment), environment)
    of_open_mpi = inquiry.family() == OPEN_MPI
    variables = [f"{name}={value}" for name, value in joining_blocks({}).items()]
    run = ["env", *variables, sys.executable, "-m", "spnb", args.verb, *asked.words]
    if where.launcher == "slurm":
        # Inside a job, srun takes the numbers of nodes and ranks from the job.
        start = ["srun", f"--mpi={'pmix' if of_open_mpi else 'pmi2'}"]
        print(batch_script(where, [*start, *run], name=job.name, ranks=str(ranks)), end="")
        return 0
    start = where.mpiexec(inquiry.mpiexec, of_open_mpi)
    print(f"#!/bin/sh\n{shlex.join([*start, '-n', str(ranks), *run])}")
    return 0
