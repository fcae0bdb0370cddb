"""Results: gathered outputs, an honest check, figures that add up, pictures that show them."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from networks import Sum, randomize
from torch import nn

import spnb
from spnb.analysis.halos import widest_halo
from spnb.analysis.traffic import traffic
from spnb.display.kinds import shares_of
from spnb.display.progress import Bar
from spnb.errors import CheckFailed
from spnb.runtime import trace

plt.switch_backend("Agg")


@pytest.fixture(scope="module")
def result():
    job = spnb.Job("resnet20_v1", image_size="65x97", batch_size=3, parts=2)
    return spnb.InProcess(spnb.plan(job)).infer()


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.mark.long
def test_check(result):
    check = result.check()
    assert check.passed
    assert check.tolerance == 1e-5
    assert check.output_scale == pytest.approx(float(result.untiled_output.abs().max()))
    assert str(check).startswith("equal to the untiled run: max error")


def test_the_check_shows_how_far_it_is(result, monkeypatch):
    told = []
    monkeypatch.setattr(Bar, "show", lambda self, *given: told.append(given))
    vars(result).pop("untiled_output", None)
    result.check()
    done = [done for _, done, _ in told]
    assert {(what, total) for what, _, total in told} == {("untiled run", told[0][2])}
    assert done == sorted(done)
    assert len(set(done)) > 10
    assert done[-1] == pytest.approx(told[0][2])


@pytest.mark.long
@pytest.mark.parametrize("wrong", [1e-3, float("nan"), float("inf")])
def test_a_wrong_output_does_not_pass(wrong):
    job = spnb.Job("resnet20_v1", image_size=64, batch_size=2, num_spatial_parts=2)
    result = spnb.InProcess(spnb.plan(job)).infer()
    result.output[1, 4] += wrong
    with pytest.raises(CheckFailed, match=r"NOT equal .* largest at \(0, 1, 4\)"):
        result.check()
    check = result.check(strict=False)
    assert not check.passed
    assert check.where == (0, 1, 4)
    if wrong == 1e-3:
        assert result.check(tolerance=0.1).passed


def test_outputs_come_back_as_the_network_returns_them():
    net = randomize(Sum(nn.Conv2d(2, 3, 3, padding=1)))
    job = spnb.Job(nn.Sequential(nn.Conv2d(2, 2, 1), net), image_size="9x11", batch_size=2)
    result = spnb.InProcess(spnb.plan(job)).infer()
    assert set(result.output) == {"dense", "sums"}
    assert result.output["dense"].shape == (2, 3, 9, 11)
    assert result.check().passed


@pytest.mark.long
def test_timings_tell_every_operator_and_byte(result):
    timings = result.timings
    assert list(timings.columns) == [
        "rank", "stage", "micro_batch", "layer", "kind", "what",
        "start", "stop", "seconds", "bytes",
    ]  # fmt: skip
    assert set(timings.kind) <= set(trace.KINDS)
    assert (timings.stop >= timings.start).all()
    assert set(timings.micro_batch) == {0, 1}
    computed = timings[(timings["rank"] == 0) & (timings.kind == "compute")]
    calls = computed.groupby(["micro_batch", "layer", "what"])  # some in two steps: tile, borders
    assert calls.ngroups == 2 * len(result.plan.stages[0].nodes)
    for row in result.per_rank.itertuples():
        assert (row.messages, row.bytes_sent) == traffic(result.plan, row.rank)
    waited = timings[timings.kind == "wait"].groupby("rank").bytes.sum()
    assert waited.sum() == result.per_rank.bytes_sent.sum()


def test_the_report_is_plain_json(result):
    told = json.loads(json.dumps(result.report()))
    assert told["ranks"] == 5
    assert told["job"]["image"] == "synthetic"
    assert told["seconds"]["step"] > 0


def test_repr_says_what_was_run(result):
    assert "Result of resnet20_v1 on 3 images of 65×97 (synthetic), 5 ranks" in repr(result)


def test_the_timeline_has_a_row_for_each_rank(result):
    axes = result.plot_timeline()
    assert isinstance(axes, Axes)
    assert axes.get_yticklabels()[0].get_text() == "rank 0 (stage 0)"
    assert axes.get_xlabel() == "time since all ranks were ready (ms)"
    _, mine = plt.subplots()
    assert result.plot_timeline(ax=mine) is mine


def test_shares_of_a_timeline_add_up_to_the_whole_time_of_all_ranks(result):
    axes, timings = result.plot_timeline(), result.timings
    words = [t.get_text().rsplit(" ", 1) for t in axes.get_legend().get_texts()]
    shares = {kind: float(share.rstrip("%")) / 100 for kind, share in words}
    assert sum(shares.values()) == pytest.approx(1, abs=0.005 * len(shares))
    own = [shares_of(timings, timings["stop"].max())[rank] for rank in timings["rank"].unique()]
    for kind, drawn in shares.items():
        names = {"idle": ("idle", "done"), "between events": ("between",)}.get(kind, (kind,))
        told = sum(each.get(name, 0) for each in own for name in names) / len(own)
        assert drawn == pytest.approx(told, abs=0.006)


def test_a_rank_is_idle_after_its_last_event(result):
    axes, end = result.plot_timeline(), 1e3 * result.timings["stop"].max()
    reached = {}
    for lines in axes.collections:
        for (_, row), (stop, _) in lines.get_segments():
            reached[row] = max(reached.get(row, 0), stop)
    assert reached == {row: pytest.approx(end) for row in range(5)}


def test_tiles_are_drawn_over_the_image():
    job = spnb.Job("resnet20_v1", image_size=128, batch_size=1, num_spatial_parts=6, resize=True)
    plan = spnb.plan(job)
    axes = plan.plot_tiles("retina")
    assert isinstance(axes, Axes)
    assert axes.get_title() == "Stage 0: retina resized from 1411x1411\n128×128 pixels, 2×3 tiles"
    assert {t.get_text() for t in axes.texts} >= {"rank 0\n64×42", "rank 5\n64×43"}
    labels = [t.get_text() for t in axes.get_legend().get_texts()]
    assert labels[0] == "tile boundary"
    assert "halo, in its reader's colour: at most 4 pixels" in labels[1]
    edges = {(r.get_x(), r.get_y()) for r in axes.patches}
    assert (42, 0) in edges
    assert (0, 64) in edges


def test_each_tiled_stage_gets_its_picture():
    job = spnb.Job(
        "resnet20_v1", image_size=64, batch_size=1, split_size=3, spatial_size=2,
        num_spatial_parts=(4, 2),
    )  # fmt: skip
    plan = spnb.plan(job)
    axes = plan.plot_tiles()
    assert isinstance(axes, np.ndarray)
    assert [a.get_title()[:7] for a in axes] == ["Stage 0", "Stage 1"]
    assert isinstance(plan.plot_tiles(stage=1), Axes)
    with pytest.raises(ValueError, match="stage 2 is not tiled: it has no halo"):
        plan.plot_tiles(stage=2)
    with pytest.raises(ValueError, match="stage 2 is not tiled"):
        widest_halo(plan, 2)


def test_what_cannot_be_drawn_is_told():
    volume = spnb.plan(spnb.Job(nn.Conv3d(1, 1, 3), image_size=9, batch_size=1, split_size=1))
    with pytest.raises(ValueError, match="tiles are drawn over 2-D images, this one has 3 axes"):
        volume.plot_tiles()
    whole = spnb.plan(spnb.Job("resnet20_v1", spatial_size=0, image_size=32, batch_size=1))
    with pytest.raises(ValueError, match="no stage of this plan is tiled"):
        whole.plot_tiles()


def test_an_array_of_another_size_is_refused():
    plan = spnb.plan(spnb.Job("resnet20_v1", image_size=32, batch_size=1))
    with pytest.raises(ValueError, match="array is 16x16, but 32x32 is planned"):
        spnb.InProcess(plan).infer(torch.zeros(1, 3, 16, 16))


@pytest.mark.long
@pytest.mark.parametrize("copies", [{"gems": True}, {"replicas": 2}])
def test_forward_in_a_cell_runs_one_copy_of_a_plan(copies):
    job = spnb.Job("resnet20_v1", image_size=33, batch_size=2, num_spatial_parts=2, **copies)
    session = spnb.InProcess(spnb.plan(job), progress=False)
    with pytest.raises(ValueError, match="forward runs one replica of a plan, but this has more"):
        session.run(lambda here: here.forward())
