"""The search of splits: what it finds, what it leaves out, and that its lines and code run."""

import itertools
import shlex
import time

import pytest
from torch import nn

import spnb
from spnb.errors import OptionError, PlanError
from spnb.ir.cost import CORE
from spnb.job.job_plan import JobPlan
from spnb.job.tuning.estimates import Estimates
from spnb.job.tuning.splits import Split, splits, tile_counts
from spnb.job.tuning.tuned import front_of
from spnb.ui.cli import _parser, main
from spnb.ui.job_of_line import job_of_args

pytestmark = pytest.mark.long

SMALL = {"image_size": 128, "batch_size": 2, "progress": False, "seconds": 3}


@pytest.fixture(scope="module")
def tuned():
    return spnb.tune("resnet20_v1", ranks=6, **SMALL | {"seconds": 8})


@pytest.mark.slow
def test_no_split_of_the_front_is_beaten_by_another(tuned):
    figures = [(c.seconds, c.memory, c.plan.num_ranks) for c in tuned.front]
    for a, b in itertools.permutations(figures, 2):
        assert not all(x <= y for x, y in zip(a, b))
    assert max(c.plan.num_ranks for c in tuned.planned) <= 6
    for other in tuned.planned:
        point = (other.seconds, other.memory, other.plan.num_ranks)
        assert any(all(x <= y for x, y in zip(best, point)) for best in figures)
    assert tuned.best.seconds == min(c.seconds for c in tuned.planned)
    assert len(front_of(tuned.planned)) == len(tuned.front)


def test_the_best_is_about_as_fast_as_the_best_of_every_split(tuned):
    """The search skips most splits; planning all of those without patches finds none far better."""
    job = spnb.Job("resnet20_v1", image_size=128, batch_size=2)
    best = float("inf")
    for split in splits(6, batch=2, axes=2, training=False):
        if split.patches > 1 or split.stages > 3 or split.slices > 1:
            continue
        try:
            best = min(best, spnb.plan(job.replace(**split.options())).simulate().seconds)
        except (PlanError, OptionError):
            continue
    assert tuned.best.seconds <= 1.03 * best


def test_rows_have_a_command_and_code_that_make_the_same_plan(tuned, monkeypatch):
    monkeypatch.setattr(spnb, "start", lambda plan: plan)
    for row, candidate in zip(tuned.table.itertuples(), tuned.shown):
        words = shlex.split(row.command)
        assert words[:4] == ["python", "-m", "spnb", "infer"]
        job = job_of_args(_parser().parse_args(words[3:]))
        by_code = eval(row.code, {"spnb": spnb})
        kept = candidate.job.replace(enable_evaluation=True).values()
        assert job.values() == by_code.job.replace(enable_evaluation=True).values() == kept
        assert by_code.num_ranks == row.ranks
        assert by_code.simulate().seconds == pytest.approx(row.seconds, rel=0.15)


def test_what_is_given_stays_and_what_is_not_searched_is_said():
    found = spnb.tune("resnet20_v1", ranks=4, fuse=2, parts=2, **SMALL)
    assert {(c.job.parts, c.job.fused) for c in found.planned} == {(2, 2)}
    text = found.card.text
    assert "as the job gives it: parts=2, halo_D2=True, fused_layers=2" in text
    assert "not searched: grids other than squares and strips" in text
    assert "simulated on a core of a laptop's CPU" in text
    with pytest.raises(OptionError, match="tune searches one number of tiles for all"):
        spnb.tune("resnet20_v1", ranks=9, tiles="4,2", stages=3, tiled_stages=2, **SMALL)


def test_a_rank_has_no_more_memory_than_is_said():
    free = spnb.tune("resnet20_v1", ranks=4, **SMALL)
    least = free.leanest.memory
    limit = int((least + max(c.memory for c in free.front)) / 2)
    found = spnb.tune("resnet20_v1", ranks=4, memory=limit, **SMALL)
    assert all(c.memory <= limit for c in found.planned)
    for candidate in found.shown[:3]:
        assert max(candidate.plan.memory_bytes) <= 1.03 * limit
    with pytest.raises(OptionError, match=r"needs 1.0 MiB a rank or less, the least is about"):
        spnb.tune("resnet20_v1", ranks=4, memory="1MiB", **SMALL)


@pytest.mark.slow
def test_training_is_searched_with_recomputation():
    job = spnb.Job("resnet20_v1", image_size=128, batch_size=4)
    found = spnb.tune(job, ranks=4, training=True, seconds=10, progress=False)
    assert all(c.plan.training for c in found.planned)
    assert {c.plan.recompute for c in found.planned} == {False, True}
    assert found.table.command.str.startswith("python -m spnb train resnet20_v1 ").all()
    assert found.table.code.str.endswith("training=True))").all()
    limit = found.leanest.memory * 1.2
    within = spnb.tune(job, ranks=4, memory=int(limit), training=True, seconds=5, progress=False)
    assert all(c.memory <= limit for c in within.planned)


def test_a_module_has_code_and_no_command():
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1))
    found = spnb.tune(net, ranks=2, image_size=64, batch_size=1, progress=False)
    assert found.table.command.isna().all()
    assert found.table.code.str.startswith("spnb.start(spnb.plan(spnb.Job(network, ").all()


def test_the_time_of_a_search_ends_it():
    begun = time.process_time()
    found = spnb.tune("resnet20_v1", ranks=64, seconds=0.01, image_size=512, batch_size=1)
    assert len({c.job.num_spatial_parts for c in found.planned}) == 1  # one split, fused or not
    assert "may be better: time was over" in found.card.text
    assert time.process_time() - begun < 20


@pytest.mark.long
def test_estimates_are_below_plans():
    job = spnb.Job("resnet20_v1", image_size=128, batch_size=4)
    whole = JobPlan(job.replace(split_size=1, spatial_size=0))
    estimates = Estimates(whole, CORE, len(whole.graph.blocks))
    for split in (
        Split(),
        Split(tiles=4, stages=1, tiled=1),
        Split(tiles=4, stages=2, tiled=1, parts=2),
        Split(stages=3, parts=4),
        Split(stages=2, replicas=2),
    ):
        estimate = estimates.of(split)
        options = split.options() | {"balance": estimate.balance if split.stages > 1 else None}
        plan = spnb.plan(job.replace(**options))
        assert estimate.seconds <= 1.001 * plan.simulate().seconds
        assert estimate.memory <= 1.05 * max(plan.memory_bytes)
        assert sum(estimate.balance) == len(whole.graph.blocks)


@pytest.mark.slow
def test_a_slow_link_makes_it_fuse_more():
    job = spnb.Job("w3", image_size=96, batch_size=1, stages=1)
    near, far = (
        spnb.tune(job.replace(slow_link=link), ranks=2, seconds=3, progress=False)
        for link in (None, "100ms,1Gbit")
    )
    assert near.best.job.fused <= 4
    both = max(far.planned, key=lambda c: c.plan.num_ranks)
    assert both.plan.num_ranks == 2
    fastest = min((c for c in far.planned if c.plan.num_ranks == 2), key=lambda c: c.seconds)
    assert fastest.job.fused_layers == "all"
    assert "with a slow link" in far.card.text


def test_tile_counts_include_the_most():
    assert tile_counts(0) == []
    assert tile_counts(63)[-1] == 63


@pytest.mark.long
def test_the_command_prints_draws_and_writes(tmp_path, capsys):
    line = "tune resnet20_v1 --image-size 128 --batch-size 1 --ranks 3 --memory 4GiB --seconds 2"
    report = tmp_path / "r.json"
    assert main([*line.split(), "--save-plots", str(tmp_path), "--report", str(report)]) == 0
    printed = capsys.readouterr().out
    assert "resnet20_v1: the best splits of at most 3 ranks, 4.0 GiB a rank" in printed
    assert "python -m spnb infer resnet20_v1" in printed
    assert (tmp_path / "tune.png").stat().st_size > 1000
    assert '"front"' in report.read_text()
    assert main([*line.split(), "--optimizer", "sgd"]) == 2
    assert "optimizer is for training: tune does not use it, without --training" in (
        capsys.readouterr().err
    )
