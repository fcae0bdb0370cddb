"""The script for a machine with a GPU: on one without, it says so, and the rest of it runs."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

CHECK = Path(__file__).with_name("check.sh")


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU: run the script")
def test_a_machine_without_a_gpu_runs_what_needs_none(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHON", sys.executable)
    monkeypatch.setenv("OUT", str(tmp_path))
    done = subprocess.run([CHECK], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no CUDA device; PyTorch" in done.stdout
    assert "ranks-on-the-host: ok" in done.stdout
    for step in ("inference", "training", "shared-by-ranks", "patches", "memory", "speed"):
        assert f"\n{step}: skipped: no CUDA device\n" in done.stdout
    assert (tmp_path / "gpu-check.txt").read_text() == done.stdout
