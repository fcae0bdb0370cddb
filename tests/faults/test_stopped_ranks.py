"""A rank that is stopped while the others go on: it is named, and what comes next is the user's."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fault_runs import FaultRun, carried_out
from processes import MPIEXEC, processes_of

LINE = "infer unet --image-size 512 --batch-size 96 --parts 96 --split-size 1"
LINE += " --num-spatial-parts 2 --deadline 2"


def ranks_of(mark):
    """The processes of ranks, which have a text in their environment, by rank."""
    found = [p for p in processes_of(mark) if "PMI_RANK" in p.environ()]
    programs = {"spnb", "ipyparallel.engine"}
    return {int(p.environ()["PMI_RANK"]): p for p in found if programs & {*p.cmdline()}}


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.mpi
@pytest.mark.parametrize(
    ("launcher", "rank"), [([MPIEXEC, "-n", "2"], 0), ([MPIEXEC, "-n", "2"], 1), ([], 1)]
)
def test_a_stopped_rank_is_named_and_all_end(launcher, rank, tmp_path):
    mark = str(tmp_path)
    environment = os.environ | {"PYTHONPATH": f"{Path(__file__).parents[2]}", "MARK": mark}
    command = [*launcher, sys.executable, "-m", "spnb", *LINE.split()]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, cwd=tmp_path, **pipes) as started:
        while not started.stdout.readline().startswith("weights:"):
            pass
        while len(ranks_of(mark)) < 2:
            time.sleep(0.5)
        time.sleep(4 if launcher else 6)  # now they compute
        ranks_of(mark)[rank].send_signal(signal.SIGSTOP)
        try:
            _, errors = started.communicate(timeout=40)
        finally:
            for process in processes_of(mark):
                process.kill()
    assert started.returncode == 1
    told = f"spnb: rank {rank} does not answer for 2 s (stopped, or swapping?)"
    way_out = "" if launcher else ": run the command again, or in Python cluster.restart()"
    assert errors == f"{told}{way_out}\n"
    assert not processes_of(mark)


PROGRAM = """
import os, signal, time, torch
from spnb.engine.remote import transport_of_program

transport, x = transport_of_program("mpi", 1), torch.ones(1)
if transport.rank == 1:
    end = time.monotonic() + 4
    while time.monotonic() < end:  # it computes, and nothing else
        pass
    transport.send(0, 7, x)
    transport.flush()
    os.kill(os.getpid(), signal.SIGSTOP)
transport.wait([transport.receive(1, 7, x)])
print("arrived", flush=True)
transport.wait([transport.receive(1, 7, x)])
"""


@pytest.mark.slow
@pytest.mark.mpi
@pytest.mark.timeout(60)
def test_a_rank_that_computes_for_long_is_waited_for_and_a_stopped_one_is_not(tmp_path):
    environment = os.environ | {"PYTHONPATH": f"{Path(__file__).parents[2]}", "MARK": str(tmp_path)}
    command = [MPIEXEC, "-n", "2", sys.executable, "-c", PROGRAM]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=50)
    finally:
        for process in processes_of(str(tmp_path)):
            process.kill()
    assert (done.returncode, done.stdout) == (1, "arrived\n")
    assert done.stderr == "spnb: rank 1 does not answer for 1 s (stopped, or swapping?)\n"


@pytest.mark.slow
@pytest.mark.mpi
@pytest.mark.timeout(120)
@pytest.mark.parametrize("moment", ["halo wait", "save"])
def test_a_stopped_launcher_of_the_ranks_is_named_and_all_end(moment, tmp_path):
    run = FaultRun("mpiexec", "SIGSTOP", "mpiexec's proxy", moment)
    outcome = carried_out(run, tmp_path / "run")
    assert outcome.wrong == []
    assert outcome.said == "the launcher of the ranks does not answer for 1 s"
