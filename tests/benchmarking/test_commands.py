"""The commands that measure, on small images: what they compare, write and draw."""

import json

import matplotlib as mpl
import pytest

from spnb.benchmarking.benchmark import LIMIT, SOLO
from spnb.ui.cli import main

mpl.use("Agg")
pytestmark = pytest.mark.mpi


def test_the_command_compares(on_shared_engines, tmp_path, capsys):
    line = "bench resnet20_v1 --image-size 48 --batch-size 1 --num-spatial-parts 2 --rounds 2"
    report = tmp_path / "bench.json"
    extra = ["--baselines", "plain", "--report", str(report), "--save-plots", str(tmp_path)]
    assert main([*line.split(), *extra]) == 0
    assert "resnet20_v1 on 1×3×48×48, 3 ranks" in capsys.readouterr().out
    found = json.loads(report.read_text())
    assert set(found["ratios"]) == {"spnb", LIMIT, SOLO, "plain"}
    assert found["bytes_sent"] == found["planned_bytes"] > 0
    assert 0 < found["exchange_share"] < 1
    assert found["planned_memory_bytes"] > 0
    assert found["ratios"]["spnb"] == 1.0
    assert all(len(each) == 2 for each in found["seconds"].values())
    assert (tmp_path / "bench.png").stat().st_size > 5000


@pytest.mark.slow
def test_the_suite_measures_all_in_one_run(on_shared_engines, tmp_path, capsys):
    line = "suite --workloads w2 --sizes 48 --tiles 2,3 --baselines plain --rounds 2"
    report = tmp_path / "suite.json"
    extra = ["--report", str(report), "--save-plots", str(tmp_path)]
    assert main([*line.split(), *extra]) == 0
    assert "w2 48²" in capsys.readouterr().out
    found = json.loads(report.read_text())["benches"]
    assert [(each["workload"], each["size"], each["tiles"]) for each in found] == [
        ("w2", 48, 2),
        ("w2", 48, 3),
    ]
    assert all(set(each["ratios"]) == {"spnb", LIMIT, SOLO, "plain"} for each in found)
    assert found[0]["seconds"]["plain"] == found[1]["seconds"]["plain"]
    assert all(each["bytes_sent"] == each["planned_bytes"] for each in found)
    assert (tmp_path / "suite.png").stat().st_size > 5000


def test_a_sweep_shows_what_fused_halos_cost_and_save(on_shared_engines, tmp_path, capsys):
    line = "sweep w2 --image-size 48 --batch-size 1 --split-size 1 --tiles 2 --lengths 0,1,2"
    report = tmp_path / "sweep.json"
    extra = ["--rounds", "1", "--report", str(report), "--save-plots", str(tmp_path)]
    assert main([*line.split(), *extra]) == 0
    assert capsys.readouterr().out.count("← best") == 1
    rows = json.loads(report.read_text())["lengths"]
    assert [row["fused"] for row in rows] == ["none", "1", "2"]
    assert rows[0]["exchanges"] > rows[2]["exchanges"]
    assert rows[0]["redundant"] == 0 < rows[2]["redundant"]
    assert all(row["seconds"] > 0 for row in rows)
    assert (tmp_path / "sweep.png").stat().st_size > 5000


def test_halo_exchange_alone_is_validated(on_shared_engines, tmp_path, capsys):
    line = "halo --sizes 24 --halos 1,20 --tiles 2,4 --channels 3 --repeats 2"
    report = tmp_path / "halo.json"
    extra = ["--report", str(report), "--save-plots", str(tmp_path)]
    assert main([*line.split(), *extra]) == 0
    assert "all exact" in capsys.readouterr().out
    rows = json.loads(report.read_text())["exchanges"]
    assert [(r["tiles"], r["halo"], r["messages"]) for r in rows] == [
        (2, 1, 1),
        (2, 20, 1),
        (4, 1, 3),
        (4, 20, 3),
    ]
    assert rows[0]["bytes"] == 24 * 3 * 4
    assert rows[3]["bytes"] == (24 * 24 - 12 * 12) * 3 * 4
    assert all(r["exchange"] > 0 and r["ping"] > 0 and r["copy"] > 0 for r in rows)
