"""Faults of every kind: a run ends or goes on, in one line, leaves nothing, and the next run works.

``python -m pytest tests/faults`` tries the whole table; the suite tries a part of it.
"""

import pytest
from fault_list import table
from fault_runs import carried_out

IN_SUITE = {
    "Cluster, gloo: exception of rank 1 at compute": [pytest.mark.slow],
    "shell, mpi: Ctrl-C of caller at compute": [pytest.mark.slow],
}


def marked(run):
    marks = IN_SUITE.get(str(run), [pytest.mark.by_hand])
    return pytest.param(run, id=str(run), marks=[pytest.mark.mpi, *marks])


@pytest.mark.timeout(120)
@pytest.mark.parametrize("run", [marked(run) for run in table()])
def test_a_fault(run, tmp_path):
    assert carried_out(run, tmp_path / "run").wrong == []


def test_the_suite_tries_runs_of_the_table():
    assert {str(run) for run in table()} >= set(IN_SUITE)
