"""Splits beside each other: their figures are those of their plans, and the picture shows them."""

import matplotlib as mpl
import pytest
import torch

import spnb
from spnb.errors import OptionError, PlanError

mpl.use("Agg")
JOB = spnb.Job("resnet20_v1", image_size=256, batch_size=1, stages=1)
CUTS = [JOB.replace(slice_method=method) for method in ("square", "vertical")]


def test_figures_are_those_of_the_plans():
    found = spnb.compare([*CUTS, CUTS[0].replace(tiles=9)])
    assert list(found.table.index) == [
        "as it is",
        "slice_method=vertical",
        "tiles=9",
    ]
    for name, row in found.table.iterrows():
        each = found.plans[name]
        assert row["ranks"] == each.num_ranks
        assert row["seconds"] == each.simulate().seconds
        assert row["memory_bytes"] == max(each.memory_bytes)
        assert (row["messages"], row["bytes"]) == (each.totals.messages, each.totals.bytes)
    assert "resnet20_v1: 3 splits" in str(found)


@pytest.mark.long
def test_the_picture_has_all_tiles_on_one_scale_and_all_bars():
    found = spnb.compare(CUTS)
    figure = found.plot()
    top, bottom = figure.subfigs
    panels = [ax for ax in top.axes if ax.get_visible()]
    assert [len(ax.patches) for ax in panels] == [4, 4]
    assert {(*ax.get_xlim(), *ax.get_ylim()) for ax in panels} == {(0, 256, 256, 0)}
    for ax, column in zip(bottom.axes, ("seconds", "memory_bytes", "bytes"), strict=True):
        assert [bar.get_width() for bar in ax.patches] == list(found.table[column])
    assert min(text.get_fontsize() for text in figure.findobj(mpl.text.Text)) >= 8
    mpl.pyplot.close(figure)
    assert "data:image/png;base64" in found._repr_html_()


def test_names_are_kept_and_equal_splits_are_numbered():
    assert list(spnb.compare({"a": CUTS[0], "b": spnb.plan(CUTS[1])}).plans) == ["a", "b"]
    assert list(spnb.compare([JOB, JOB]).plans) == ["split 0", "split 1"]


def test_what_cannot_be_compared_is_refused_in_a_line():
    with pytest.raises(OptionError, match="give at least one"):
        spnb.compare([])
    with pytest.raises(OptionError, match=r"several sizes: 256×256 .*, 64×64"):
        spnb.compare([JOB, JOB.replace(image_size=64)])
    with pytest.raises(PlanError, match=r"stages=40: 40 stages, but the network has"):
        spnb.compare([JOB, JOB.replace(stages=40)])


def test_volumes_have_bars_only():
    job = spnb.Job(torch.nn.Conv3d(1, 1, 3), image_size="8x8x8", batch_size=1, stages=1, tiles=2)
    figure = spnb.compare([job, job.replace(tiles=4)]).plot()
    assert len(figure.axes) == 3
    mpl.pyplot.close(figure)
