"""Pictures show what the numbers say."""

import json

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from torch import nn

import spnb
from spnb.analysis.halos import halo_of
from spnb.analysis.memory import held_value_bytes
from spnb.analysis.traffic import traffic_matrix
from spnb.analysis.untiled import untiled
from spnb.analysis.weight_memory import PROCESS, weight_bytes
from spnb.display import plots
from spnb.display.cards import size_text

mpl.use("Agg")


@pytest.fixture(scope="module")
def result():
    job = spnb.Job(
        "resnet29_v2",
        image_size="97x131",
        batch_size=2,
        parts=2,
        num_spatial_parts=4,
        resize=True,
    )
    return spnb.InProcess(spnb.plan(job)).infer("retina")


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def texts(ax):
    return [t.get_text() for t in ax.texts]


@pytest.mark.long
def test_each_takes_axes_and_returns_them(result):
    plan = result.plan
    for draw in (
        lambda ax: plan.plot_tiles("retina", 0, ax),
        lambda ax: plan.plot_halo(1, "retina", ax=ax),
        plan.plot_clock,
        plan.plot_traffic,
        plan.plot_memory,
        result.plot_timeline,
        result.plot_layers,
        result.plot_memory,
        lambda ax: result.plot_difference(ax=ax),
        plan.simulate().plot_timeline,
    ):
        figure, ax = plt.subplots()
        assert draw(ax) is ax
        figure.canvas.draw()
        plt.close(figure)


@pytest.mark.long
def test_the_halo_names_each_neighbour_with_the_size_of_its_part(result):
    plan = result.plan
    found = halo_of(plan, 0)
    ax = plan.plot_halo(0)
    for transfer in found.neighbours(0):
        shape = "×".join(map(str, transfer.region.shape[1:]))
        assert f"{transfer.source}\n{shape}" in texts(ax)
    assert len(texts(ax)) == 1 + len(found.neighbours(0))
    layer = next(
        h.layer for h in spnb.analysis.halos.halos(plan, 0) if any(h.depth) and h is not found
    )
    assert layer in plan.plot_halo(0, layer=layer).get_title()
    with pytest.raises(ValueError, match="exchanges no halo of 'nowhere': there are"):
        plan.plot_halo(0, layer="nowhere")
    with pytest.raises(ValueError, match="stage 1 is not tiled"):
        plan.plot_halo(4)
    with pytest.raises(ValueError, match="no rank 5: the plan has ranks 0 to 4"):
        plan.plot_halo(5)


def test_merges_are_no_halos():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.Conv2d(4, 1, 5))
    plan = spnb.plan(spnb.Job(net, image_size=64, batch_size=1, split_size=1))
    assert max(map(max, (h.depth for h in spnb.analysis.halos.halos(plan, 0)))) <= 4
    assert untiled(plan).num_ranks == 1


@pytest.mark.long
def test_the_clock(result):
    job = spnb.Job("resnet20_v1", image_size=33, batch_size=3, parts=3)
    ax = spnb.plan(job).plot_clock()
    assert texts(ax) == ["0", "1", "0", "2", "1", "2"]
    assert "through 2 stages: idle 25%" in ax.get_title()
    many = spnb.plan(job.replace(batch_size=8, parts=8)).plot_clock()
    colours = {text.get_text(): text.get_color() for text in many.texts}
    assert colours["4"] == "white"  # on dark blue
    assert colours["3"] == "black"  # on yellow


@pytest.mark.long
def test_traffic_and_memory_draw_the_plans_numbers(result):
    plan = result.plan
    matrix = traffic_matrix(plan)
    shown = plan.plot_traffic().images[0].get_array()
    np.testing.assert_array_equal(shown.filled(0), matrix)
    ax = plan.plot_memory()
    heights = [sum(part.get_height() for part in parts) for parts in zip(*ax.containers)]
    unit = 2**20 if "MiB" in ax.get_ylabel() else 2**10
    held = [
        weight_bytes(plan, plan.stage_of(r).index) + held_value_bytes(plan, r) for r in range(5)
    ]
    expected = [PROCESS + each for each in held]
    np.testing.assert_allclose(np.array(heights) * unit, expected)
    assert max(expected) == max(plan.memory_bytes)
    alone = untiled(plan)
    line = ax.lines[0].get_ydata()[0] * unit
    assert line == pytest.approx(PROCESS + weight_bytes(alone, 0) + held_value_bytes(alone, 0))
    assert line > max(expected)


@pytest.mark.long
def test_layers_sum_to_all_the_time(result):
    for most in (3, 20, 1000):
        ax = plots.layers(result.timings, most=most)
        drawn = sum(bar.get_width() for bars in ax.containers for bar in bars)
        assert drawn == pytest.approx(result.timings.seconds.sum() * 1e3)
        assert len(ax.get_yticklabels()) <= most + 1


def test_the_difference_is_where_it_is():
    net = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1))
    plan = spnb.plan(spnb.Job(net, image_size="20x30", batch_size=1, split_size=1))
    result = spnb.InProcess(plan).infer()
    result.output[0, 1, 7, 13] += 0.5
    ax = result.plot_difference()
    assert "PAST" in ax.get_title()
    drawn = np.asarray(ax.images[0].get_array())
    assert np.unravel_index(drawn.argmax(), drawn.shape) == (7, 13)
    assert len(ax.lines) == 4  # tiles, of 10 rows and 15 columns
    assert [max(line.get_xdata()) for line in ax.lines] == [15, 30, 15, 30]
    assert [max(line.get_ydata()) for line in ax.lines] == [10, 10, 20, 20]
    assert "within" in spnb.InProcess(plan).infer().plot_difference().get_title()


@pytest.mark.long
def test_a_rank_draws_its_own_halo():
    job = spnb.Job("resnet20_v1", image_size=40, batch_size=1, num_spatial_parts=9)
    session = spnb.InProcess(spnb.plan(job))
    session.infer()
    middle, last = session._ranks[4], session._ranks[9]
    assert middle.neighbours["up"] == 1
    assert middle.neighbours["down-right"] == 8
    assert len(middle.neighbours) == 8
    assert last.neighbours == {}
    ax = middle.plot(torch.rand(1, 3, 16, 16))
    assert len(texts(ax)) == 9
    legend = ax.get_legend()
    told = [text.get_text() for text in legend.get_texts()]  # each colour once
    assert told == ["from ranks 0, 2, 6, 8", "from ranks 1, 7", "from ranks 3, 5"]
    assert len({patch.get_facecolor() for patch in legend.get_patches()}) == 3
    with pytest.raises(ValueError, match="rank 9 of stage 1 has no halo"):
        last.plot()


def test_the_chrome_trace_has_every_event(result, tmp_path):
    path = result.to_chrome_trace(tmp_path / "trace.json")
    events = json.loads(path.read_text())["traceEvents"]
    spans = [e for e in events if e["ph"] == "X"]
    assert len(spans) == len(result.timings)
    assert sum(e["dur"] for e in spans) == pytest.approx(result.timings.seconds.sum() * 1e6)
    assert {(e["pid"], e["tid"]) for e in spans} == {(0, 0), (0, 1), (0, 2), (0, 3), (1, 4)}
    names = {e["args"]["name"] for e in events if e["ph"] == "M"}
    assert {"stage 0", "stage 1", "rank 4"} <= names


def test_a_need_far_above_the_bars_is_named_and_not_drawn():
    plan = spnb.plan("unet", image_size=4096, batch_size=1, stages=1, tiles=16)
    ax = plan.plot_memory()
    unit = 2**30 if "GiB" in ax.get_ylabel() else 2**20
    highest, need = max(plan.memory_bytes), ax.lines[0].get_ydata()[0] * unit
    assert need > 5 * highest
    assert highest < ax.get_ylim()[1] * unit < 1.5 * highest
    assert texts(ax) == [
        f"↑ untiled need: {size_text(need)}, {need / highest:.0f} times the highest"
    ]


def test_plans_beside_each_other_have_one_scale_of_colours():
    job = spnb.Job("resnet20_v1", image_size=128, batch_size=1, num_spatial_parts=4)
    plans = [spnb.plan(job.replace(slice_method=each)) for each in ("vertical", "square")]
    alone = [plan.plot_traffic().images[0].norm for plan in plans]
    beside = [plan.plot_traffic(beside=plans).images[0].norm for plan in plans]
    assert (alone[0].vmin, alone[0].vmax) != (alone[1].vmin, alone[1].vmax)
    for norm in beside:
        assert norm.vmin == min(each.vmin for each in alone)
        assert norm.vmax == max(each.vmax for each in alone)


def test_a_thin_tile_is_as_thin_in_the_picture_of_its_halo():
    plan = spnb.plan(
        "resnet20_v1", image_size=96, batch_size=1, num_spatial_parts=2, slice_method="vertical"
    )
    ax = plan.plot_halo(0)
    tile = ax.patches[0]
    assert tile.get_width() == pytest.approx(tile.get_height() / 2)


def test_labels_of_thin_tiles_have_one_line():
    options = {"image_size": 512, "batch_size": 1, "num_spatial_parts": 9}
    strips = spnb.plan("resnet20_v1", slice_method="horizontal", **options)
    assert texts(strips.plot_tiles())[0] == "rank 0, 56×512"
    assert texts(spnb.plan("resnet20_v1", **options).plot_tiles())[0] == "rank 0\n170×170"
    whole = spnb.plan(
        "unet", image_size=256, batch_size=1, stages=1, tiles=4, fuse="all", patches=4
    )
    legend = [text.get_text() for text in whole.plot_tiles().get_legend().get_texts()]
    assert legend[:2] == ["tile boundary", "patch boundary"]
