"""The command that starts engines, by mpiexec or as a batch job."""

from __future__ import annotations

import math
import os
import shlex
import shutil
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

from ...errors import StartError
from ...transport.mpi_family import HYDRA, OPEN_MPI, Inquiry
from . import slurm
from .placement import Placement


def mpiexec_in(environment: Mapping[str, str]) -> str:
    """The path of mpiexec.

    Raises
    ------
    StartError
        If there is none.
    """
    mpiexec = shutil.which("mpiexec", path=environment["PATH"])
    if mpiexec is None:
        raise StartError(
            f"no mpiexec beside {sys.executable} or on PATH: python -m pip install 'spnb[mpi]'"
        )
    return mpiexec


def engines_command(
    placement: Placement,
    family: str,
    mpiexec: str,
    environment: Collection[str],
    num_ranks: int,
) -> list[str]:
    """The begin of the command that starts engines; their number and their command follow.

    Parameters
    ----------
    placement
        Where they are started.
    family
        The family of MPI.
    mpiexec
        Path of mpiexec.
    environment
        Names of the variables that they need.
    num_ranks
        Their number.
    """
    words = placement.mpiexec(mpiexec, family == OPEN_MPI, [*environment, "IPP_CONNECTION_INFO"])
    if placement.launcher == "slurm":
        # Not srun: engines do not always listen, and MPICH needs that where Slurm's PMI starts it.
        words = ["/usr/bin/env", *(f"{k}={v}" for k, v in slurm.OF_STEPS.items()), *words]
        if placement.nodes and family == HYDRA:
            words += ["-ppn", str(math.ceil(num_ranks / placement.nodes))]
    return words


def shown_command(placement: Placement, num_ranks: int, name: str) -> str:
    """What starts engines, as it would be run or sent; nothing is started.

    Parameters
    ----------
    placement
        Where they would be started.
    num_ranks
        Number of engines.
    name
        Name of a batch job.
    """
    environment = dict(os.environ)
    environment["PATH"] = path_of_engines()
    inquiry = Inquiry(mpiexec_in(environment), environment)
    begin = engines_command(placement, inquiry.family(), inquiry.mpiexec, {}, num_ranks)
    words = [*begin, "-n", str(num_ranks), *engine_command(placement)]
    if placement.launcher == "slurm" and not slurm.step_fits(placement):
        return slurm.batch_script(placement, words, name=name, ranks=str(num_ranks))
    return shlex.join(words) + "\n"


def engine_command(placement: Placement) -> list[str]:
    """The command of an engine.

    MPI's own end waits for all ranks.  So an engine that ends by an error would stay, and the start
    would wait for it; mpi4py as the program lets such an end be that of all ranks.
    """
    module = "ipyparallel.engine" if placement.is_here else "spnb.engine.on_host"
    return [sys.executable, "-m", "mpi4py", "-m", module, "--mpi"]


def path_of_engines() -> str:
    """The ``PATH`` of engines: what is beside Python comes first."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
