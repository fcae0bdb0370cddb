"""The script of the guide that trains in patches, on an image that plain PyTorch can take too."""

import re
import subprocess
import sys

import pytest
from guide_pages import ROOT

SCRIPT = ROOT / "notebooks" / "large_training.py"


@pytest.mark.mpi
@pytest.mark.slow
def test_a_step_in_patches_is_that_of_plain_pytorch():
    done = subprocess.run([sys.executable, SCRIPT, "128"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    tiled, whole = map(float, re.findall(r"loss ([\d.]+);", done.stdout))
    assert tiled == pytest.approx(whole, abs=1e-6)
    (error,) = re.findall(r"difference of a weight (\S+)", done.stdout)
    assert float(error) < 1e-6
