"""A rank whose disk is full while the others go on: all end, with one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import MPIEXEC

NETWORK = """
import resource
from torch import nn

def make():  # rank 0 alone calls it
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    return nn.Conv2d(3, 2, 3, padding=1)
"""


@pytest.mark.slow
@pytest.mark.mpi
def test_a_rank_that_cannot_write_its_part_ends_all(tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text(NETWORK)
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parents[2]}")
    line = "infer net:make --image-size 700 --batch-size 4 --parts 4 --split-size 1"
    line += " --num-spatial-parts 2 --save-output out.zarr"
    command = [MPIEXEC, "-n", "2", sys.executable, "-m", "spnb", *line.split()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 1
    told = f"WriteError: cannot write {tmp_path}/out.zarr: File too large\n"
    assert done.stderr == f"spnb: rank 0, stage 0, save: {told}"
    assert not [name for name in os.listdir(tmp_path) if name.endswith("out.zarr")]
