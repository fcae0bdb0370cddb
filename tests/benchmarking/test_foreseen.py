"""Foreseen and measured splits: figures of both, and what their report says of them."""

import json

import pandas as pd
import pytest

from spnb.benchmarking import FORESEEN_SPLITS, FORESEEN_WORKLOADS, foreseen
from spnb.benchmarking.foreseen import Foreseen
from spnb.errors import OptionError
from spnb.ir.cost import CORE
from spnb.job.job import Job
from spnb.ui.cli import main


def test_errors_and_places_are_those_of_the_table():
    rows = [
        {"workload": name, "split": str(k), "foreseen": f, "measured": m, "ranks": 1}
        | {"foreseen_bytes": 100 + k, "measured_bytes": 100}
        for name, pairs in {
            "a": [(1.0, 1.0), (2.0, 1.6), (3.0, 4.0)],
            "b": [(1.0, 2.0), (1.5, 1.0), (9.0, 9.0)],
        }.items()
        for k, (f, m) in enumerate(pairs)
    ]
    found = Foreseen(CORE, pd.DataFrame(rows))
    assert found.time_error == pytest.approx(0.25)
    assert found.memory_error == pytest.approx(0.01)
    assert found.places == {"a": 1, "b": 2}
    text = found.card.text
    assert "median error: 25% of the time, 1% of the memory" in text
    assert "the fastest split is among the foreseen best 3 for 2 of 2 networks" in text
    assert found.plot().get_xlabel() == "foreseen"


def test_there_are_thirty_splits_and_each_can_be_had():
    assert len(FORESEEN_SPLITS) * len(FORESEEN_WORKLOADS) == 30
    for options in FORESEEN_SPLITS.values():
        Job("unet", image_size=64, batch_size=2).replace(**options)


def test_a_machine_that_was_not_measured_is_refused():
    with pytest.raises(OptionError, match="machine is here, but this machine was not measured"):
        foreseen.foreseen()


@pytest.mark.mpi
def test_the_command_runs_every_split(on_shared_engines, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(foreseen, "FORESEEN_WORKLOADS", {"resnet20_v1": 48})
    report = tmp_path / "foreseen.json"
    line = ["foreseen", "--workloads", "resnet20_v1", "--rounds", "1", "--machine", "core"]
    assert main([*line, "--report", str(report)]) == 0
    printed = capsys.readouterr().out
    assert "6 splits, foreseen and measured" in printed
    rows = json.loads(report.read_text())["benches"]
    assert [row["split"] for row in rows] == list(FORESEEN_SPLITS)
    assert all(row["foreseen"] > 0 and row["measured"] > 0 for row in rows)
    assert all(row["foreseen_bytes"] > 1 << 20 for row in rows)
