"""Hosts with too little of what MPI needs: one line that names it, within seconds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import MPIEXEC

LINE = "infer resnet20_v1 --image-size 64 --batch-size 1 --split-size 1 --num-spatial-parts 4"
SPNB = [sys.executable, "-m", "spnb", *LINE.split()]
UNDER_MPI = [MPIEXEC, "-n", "4", *SPNB]
SMALL = "mount -t tmpfs -o size={} tmpfs /dev/shm && exec "


def may_unshare():
    return not subprocess.run(["unshare", "-m", "-n", "true"], capture_output=True).returncode


needs_namespaces = pytest.mark.skipif(not may_unshare(), reason="needs namespaces of its own")


def told(command, folder):
    environment = os.environ | {"PYTHONPATH": f"{Path(__file__).parents[2]}"}
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=55
    )
    return done.returncode, done.stderr


@pytest.mark.slow
@pytest.mark.mpi
@pytest.mark.timeout(60)
@pytest.mark.parametrize("command", [SPNB, UNDER_MPI])
@needs_namespaces
def test_too_little_shared_memory_is_a_line(command, tmp_path):
    shell = ["unshare", "-m", "sh", "-c", SMALL.format("1m") + '"$@"', "sh", *command]
    code, error = told(shell, tmp_path)
    assert code == 1
    assert error.startswith("spnb: 4 ranks need 2.7 MiB of shared memory, and /dev/shm has 1.0 MiB")
    assert error.count("\n") == 1


@pytest.mark.slow
@pytest.mark.mpi
@pytest.mark.timeout(60)
@needs_namespaces
def test_little_shared_memory_is_enough(tmp_path):
    shell = ["unshare", "-m", "sh", "-c", SMALL.format("3m") + '"$@"', "sh", *UNDER_MPI]
    assert told(shell, tmp_path) == (0, "")


@pytest.mark.slow
@pytest.mark.mpi
@pytest.mark.timeout(60)
@pytest.mark.parametrize("command", [SPNB, UNDER_MPI])
def test_too_few_open_files_are_a_line(command, tmp_path):
    code, error = told(["sh", "-c", 'ulimit -n 42; exec "$@"', "sh", *command], tmp_path)
    assert code == 1
    assert error.startswith("spnb: a process needs ")
    assert error.count("\n") == 1


@pytest.mark.slow
@pytest.mark.mpi
@pytest.mark.timeout(60)
@needs_namespaces
def test_a_host_without_a_network_is_a_line(tmp_path):
    code, error = told(["unshare", "-n", *SPNB], tmp_path)
    assert code == 1
    assert error.startswith("spnb: no process can be reached at 127.0.0.1 (Network is unreachable)")
    assert error.count("\n") == 1
    assert told(["unshare", "-n", *UNDER_MPI], tmp_path) == (0, "")
