"""What is compared of training, and what a table says; verdicts are timings, and not asserted."""

import json

import matplotlib as mpl
import pytest
import torch
from torch import nn

import spnb
from spnb.benchmarking import plain_training
from spnb.benchmarking.contestants import on_one_thread
from spnb.benchmarking.plain_training import MEMORY_STEPS, PlainProcesses, PlainTraining
from spnb.benchmarking.timed_process import Unavailable
from spnb.benchmarking.training_bench import ALONE, ORDER, TrainingBench
from spnb.ui.cli import main

mpl.use("Agg")


class InThisProcess:
    """Steps as a process of its own takes them, without its start."""

    def __init__(self, module, request, environment=None):
        self.trained, self.steps = request.step(), 1
        self.trained()

    def prepared(self):
        return 0.0

    def begin_step(self):
        self.trained()

    def end_step(self):
        self.steps += 1
        return 0.5

    def peak_bytes(self):
        assert self.steps == MEMORY_STEPS
        return 1 << 20

    def stop(self):
        pass


@pytest.fixture
def without_processes(monkeypatch):
    monkeypatch.setattr(plain_training, "TimedProcess", InThisProcess)
    monkeypatch.setattr("spnb.benchmarking.plain_training.keep_blocks", lambda: None)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def planned(**options):
    given = {"image_size": "15x32", "batch_size": 3, "split_size": 1, "num_spatial_parts": 2}
    return spnb.plan(spnb.Job("w2", **(given | options)), training=True)


RECIPE = spnb.Job("w2").recipe("cross_entropy")


@pytest.mark.long
def test_each_tile_is_trained_by_itself_on_one_thread():
    tiles = PlainTraining.tiles(planned(num_spatial_parts=4), RECIPE, keeps_blocks=True)
    assert [each.job.input_shape for each in tiles] == [(3, 3, 7, 16)] * 2 + [(3, 3, 8, 16)] * 2
    assert all((each.threads, each.keeps_blocks) == (1, True) for each in tiles)
    (whole,) = PlainTraining.whole(planned(parts=2, gems=True, batch_size=4), RECIPE, False)
    assert (whole.job.input_shape, whole.job.parts, whole.threads) == ((4, 3, 15, 32), 4, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial_size": 0, "num_spatial_parts": 4}, "is not tiled"),
        ({"replicas": 2, "batch_size": 2}, "divide the batch"),
    ],
)
def test_where_no_tile_is_trained_alone(options, message):
    with pytest.raises(Unavailable, match=message):
        PlainTraining.tiles(planned(**options), RECIPE, keeps_blocks=False)


def test_a_plain_step_trains_what_the_plan_trains():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Conv2d(2, 3, 3))
    network[0].requires_grad_(False)
    network[1].eval()
    job = spnb.Job(network, image_size=12, batch_size=3, parts=2, split_size=1)
    training = PlainTraining(job.replace(num_spatial_parts=1), RECIPE)
    before = {name: tensor.clone() for name, tensor in job.module.state_dict().items()}
    training.step()()
    after = training.job.module.state_dict()
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed == {"1.weight", "1.bias", "2.weight", "2.bias"}


@pytest.mark.long
def test_a_process_trains_and_measures_its_memory():
    processes = PlainProcesses(PlainTraining.whole(planned(), RECIPE, keeps_blocks=False))
    try:
        assert processes.peak_bytes > 0
        assert processes.turn() > 0
    finally:
        processes.stop()


def test_one_rank_trains_the_whole_image_with_one_thread():
    solo = on_one_thread(planned(recompute=True).job, training=True)
    assert (solo.num_ranks, solo.training, solo.job.recompute) == (1, True, True)
    assert solo.rank_plan(0).threads == 1


def test_a_table_has_ratios_of_a_round_and_shares_of_memory():
    seconds = {"spnb": (1.0, 2.0, 4.0), "plain": (3.0, 4.0, 4.0)}
    peaks = {"spnb": 30 << 20, "plain": 60 << 20, ALONE: 40 << 20}
    found = TrainingBench(planned(), seconds, peaks, {"x": "no"})
    row = found.table.loc["plain"]
    assert (row.ratio, row.lowest, row.highest, row.share) == (2.0, 1.0, 3.0, 0.5)
    assert found.table.share[ALONE] == 0.75
    assert "not measured: x: no" in repr(found)
    assert [bar.get_width() for bar in found.plot().patches] == [1.0, 2.0]


@pytest.mark.mpi
def test_the_command_compares_steps(on_shared_engines, without_processes, tmp_path, capsys):
    line = "bench w2 --training --image-size 32 --batch-size 2 --split-size 1"
    report = tmp_path / "bench.json"
    more = "--num-spatial-parts 2 --slice-method vertical --rounds 1 --report"
    assert main([*line.split(), *more.split(), str(report), "--save-plots", str(tmp_path)]) == 0
    assert "training w2 on 2×3×32×32, 2 ranks" in capsys.readouterr().out
    found = json.loads(report.read_text())
    assert list(found["ratios"]) == ["spnb", *ORDER]
    assert all(len(each) == 1 for each in found["seconds"].values())
    assert set(found["peak_memory_bytes"]) == {"spnb", *ORDER[:-1]}
    assert found["planned_memory_bytes"] > 0
    assert found["job"]["slice_method"] == "vertical"
    assert (tmp_path / "bench.png").stat().st_size > 5000


@pytest.mark.long
def test_a_suite_trains_and_measures_memory(without_processes, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("spnb.driver.cluster.Cluster", spnb.InProcess)
    line = "suite --training --workloads w2 --sizes 16 --memory-sizes 24 --tiles 2"
    report = tmp_path / "suite.json"
    extra = ["--rounds", "1", "--report", str(report), "--save-plots", str(tmp_path)]
    assert main([*line.split(), *extra]) == 0
    assert "w2, recomputed 24²" in capsys.readouterr().out
    found = json.loads(report.read_text())["benches"]
    assert [(each["size"], each["recompute"], bool(each["seconds"])) for each in found] == [
        (16, False, True),
        (16, True, True),
        (24, False, False),
        (24, True, False),
    ]
    assert [each["job"]["recompute"] for each in found] == [False, True, False, True]
    assert set(found[0]["ratios"]) == {"spnb", *ORDER}
    assert ["spnb" in each["peak_memory_bytes"] for each in found] == [False, False, True, True]
    assert found[0]["seconds"]["plain"] == found[1]["seconds"]["plain"]
    assert set(found[3]["peak_memory_bytes"]) == {"spnb", "plain", ALONE}
    assert (tmp_path / "suite.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("bench w2 --training --num-epochs 2", "num_epochs is for train: bench --training times"),
        ("bench w2 --training --baselines plain", "baselines plain are for inference"),
        ("bench w2 --training --checkpoint x.pth", "which a benchmark does not write"),
        ("bench w2 --training --rounds 0", "rounds is 0"),
        ("bench w2 --training --device cuda", "plain torch is measured on the CPU"),
        ("bench w2 --training --enable-evaluation", "is for inference"),
        ("bench w2 --recompute", "recompute is for training: bench does not use it, without --tr"),
        ("suite --training --baselines plain", "baselines plain are for inference"),
        ("suite --training --rounds 0", "rounds is 0"),
        ("suite --memory-sizes 64", "--memory-sizes is for the suite of training"),
    ],
)
def test_what_cannot_be_measured(line, message, capsys):
    assert main(line.split()) == 2
    assert message in capsys.readouterr().err
