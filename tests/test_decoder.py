"""The script of the guide that decodes in three ways, with a small decoder."""

import re
import subprocess
import sys

import pytest
from guide_pages import ROOT

SCRIPT = ROOT / "notebooks" / "decoder.py"


@pytest.mark.mpi
@pytest.mark.library
@pytest.mark.slow
def test_four_ranks_decode_what_one_process_does():
    pytest.importorskip("diffusers", reason="pip install --no-deps -r tests/networks.txt")
    small = ["12", "--precision", "fp64", "--widths", "32", "32", "64", "--tile", "8"]
    done = subprocess.run(
        [sys.executable, SCRIPT, *small], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    errors = dict(re.findall(r"^(.+?): .*error (\S+)$", done.stdout, re.M))
    assert errors.keys() == {"enable_tiling()", "a rank of spnb"}
    assert float(errors["enable_tiling()"]) > 1e-3
    assert float(errors["a rank of spnb"]) < 1e-12
