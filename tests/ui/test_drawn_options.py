"""Options drawn by chance: a plan, or one line that says what is wrong; never a traceback.

The environment variable ``SPNB_FUZZ_OPTIONS`` sets how many are drawn, ``SPNB_FUZZ_SEED`` the first
seed.
"""

import os
import sys

import drawn_options
import pytest
from drawn_options import outcome

DRAWS = int(os.environ.get("SPNB_FUZZ_OPTIONS", "8"))
SEED = int(os.environ.get("SPNB_FUZZ_SEED", "0"))


@pytest.mark.long
def test_options_are_planned_or_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    faults, planned = [], 0
    for number in range(SEED, SEED + DRAWS):
        found, draw = outcome(number)
        planned += found.planned
        if found.fault:
            faults.append(f"seed {number}: {draw}: {found.fault}")
            print(faults[-1], flush=True)
    print(f"{planned} of {DRAWS} planned")
    assert not faults, "\n".join(faults)
    assert planned or DRAWS < 50


def test_a_traceback_or_a_second_line_would_be_found(monkeypatch):
    monkeypatch.setattr(drawn_options, "main", lambda words: 1 / 0)
    assert "ZeroDivisionError" in drawn_options.of_line(["plan"]).fault
    monkeypatch.setattr(drawn_options, "main", lambda words: print("a\nb", file=sys.stderr) or 2)
    assert drawn_options.of_line(["plan"]).fault.startswith("code 2, 'a")
