"""An mpiexec and a library of MPI: both are asked before ranks start."""

import json
import os
import subprocess
import sys

import pytest
from processes import MPIEXEC

from spnb.errors import StartError
from spnb.transport import mpi_family
from spnb.transport.mpi_family import (
    HYDRA,
    OPEN_MPI,
    PMIX,
    Inquiry,
    MPIPart,
    launcher_of,
    refuse_two,
)

VERSIONS = {
    "HYDRA build details:\n    Version:                                 5.0.2\n": "MPICH 5.0.2",
    "mpiexec (Open MPI) 5.0.8\n\nReport bugs to https://www.open-mpi.org\n": "Open MPI 5.0.8",
    "mpirun (Open MPI) 4.1.4\n": "Open MPI 4.1.4",
    "prterun (PRRTE) 3.0.7\n": "Open MPI 3.0.7",
    "Intel(R) MPI Library for Linux* OS, Version 2021.11\n": "Intel(R) MPI Library for Linux* OS,"
    " Version 2021.11",
    "srun 24.05\n": "srun 24.05",
}


def test_launchers_by_what_they_print():
    found = {text: launcher_of(text, "/bin/mpiexec") for text in VERSIONS}
    assert {text: part.name for text, part in found.items()} == VERSIONS
    assert [part.family for part in found.values()] == [HYDRA, *[OPEN_MPI] * 3, HYDRA, ""]


def test_two_families_are_named_with_their_paths():
    debian = MPIPart(OPEN_MPI, "Open MPI 4.1.4", "/usr/bin/mpiexec")
    wheel = MPIPart(HYDRA, "MPICH 5.0.2", "/venv/lib/libmpi.so.12")
    refuse_two(wheel, wheel)
    refuse_two(MPIPart("", "srun 24.05", "srun"), wheel)
    with pytest.raises(
        StartError,
        match=r"Open MPI 4\.1\.4 \(/usr/bin/mpiexec\), but mpi4py loads MPICH 5\.0\.2"
        r" \(/venv/lib/libmpi.so.12\), .*: keep one of the two, as with: python -m pip uninstall",
    ):
        refuse_two(debian, wheel)


def library():
    """The library that mpi4py loads; here it would stay in this process, and not be started."""
    command = [sys.executable, "-P", mpi_family.__file__]
    return MPIPart(**json.loads(subprocess.run(command, capture_output=True).stdout))


@pytest.mark.mpi
def test_the_two_of_this_environment_are_of_one_family():
    assert library().family in (HYDRA, OPEN_MPI)
    assert Inquiry(MPIEXEC, os.environ).family() == library().family


@pytest.mark.mpi
def test_an_mpiexec_of_another_mpi_is_refused_before_ranks_start(tmp_path, monkeypatch):
    from spnb.driver.launch import processes
    from spnb.driver.launch.engines import Engines

    other = {HYDRA: "mpiexec (Open MPI) 5.0.8", OPEN_MPI: "HYDRA build details:\n Version: 5.0.2"}
    told = other[library().family]
    mpiexec = tmp_path / "mpiexec"
    mpiexec.write_text(f"#!/bin/sh\necho '{told}'\ntouch {tmp_path}/$#\n")
    mpiexec.chmod(0o755)
    real = processes.environment_of_engines
    path = f"{tmp_path}:{os.path.dirname(sys.executable)}:/bin"
    monkeypatch.setattr(processes, "environment_of_engines", lambda f: real(f) | {"PATH": path})
    with pytest.raises(StartError, match=r"mpiexec is of .*, but mpi4py loads .*libmpi"):
        Engines(2).start()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "mpiexec"]  # asked, never run


def test_srun_by_pmix_needs_a_library_with_it():
    srun, wheel = MPIPart("", PMIX, "Slurm"), MPIPart(HYDRA, "MPICH 5.0.2", "/v/libmpi.so")
    with pytest.raises(StartError, match=r"MPICH 5\.0\.2 .* has no PMIx: use srun --mpi=pmi2"):
        refuse_two(srun, wheel)
    refuse_two(srun, MPIPart(HYDRA, "MPICH 4.2.0", "/usr/lib/libmpi.so.12", has_pmix=True))
    refuse_two(srun, MPIPart(OPEN_MPI, "Open MPI 5.0.8", "/venv/libmpi.so.40"))
