"""A rank that is stopped while the others go on: it is named, and what comes next is the user's."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import MPIEXEC, processes_of

LINE = "infer unet --image-size 512 --batch-size 64 --parts 64 --split-size 1"
LINE += " --num-spatial-parts 2 --deadline 2"


def ranks_of(mark):
    """The processes of ranks, which have a text in their environment, by rank."""
    found = [p for p in processes_of(mark) if "PMI_RANK" in p.environ()]
    return {int(p.environ()["PMI_RANK"]): p for p in found if "spnb" in p.cmdline()}


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.mpi
@pytest.mark.parametrize("rank", [0, 1])
def test_a_stopped_rank_of_mpiexec_is_named_and_all_end(rank, tmp_path):
    mark = str(tmp_path)
    environment = os.environ | {"PYTHONPATH": f"{Path(__file__).parents[2]}", "MARK": mark}
    command = [MPIEXEC, "-n", "2", sys.executable, "-m", "spnb", *LINE.split()]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, cwd=tmp_path, **pipes) as started:
        while not started.stdout.readline().startswith("weights:"):
            pass
        ranks_of(mark)[rank].send_signal(signal.SIGSTOP)
        try:
            _, errors = started.communicate(timeout=40)
        finally:
            for process in processes_of(mark):
                process.kill()
    assert started.returncode == 1
    assert errors == f"spnb: rank {rank} does not answer for 2 s (stopped, or swapping?)\n"
