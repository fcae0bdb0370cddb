"""Sliders answer with another plan, or say why there is none."""

import base64

import pytest

import spnb
from spnb.analysis.memory import memory


def explorer(**options):
    job = spnb.Job("resnet29_v2", image_size=96, batch_size=1, resize=True, **options)
    return spnb.explore(job, "retina")


@pytest.mark.long
def test_a_slider_changes_plan_picture_and_figures():
    view = explorer()
    before = view.picture.value, view.figures.value
    view.tiles.value = 9
    assert view.plan.num_ranks == 10
    assert view.job.num_spatial_parts == 9
    assert view.picture.value != before[0]
    assert view.figures.value != before[1]
    assert bytes(view.picture.value).startswith(b"\x89PNG")
    assert f"{view.plan.totals.exchanges:,}" in view.figures.value
    view.slice_method.value = "vertical"
    assert view.plan.stages[0].team.tiling.grid == (1, 1, 9)
    view.fused.value = 3
    assert view.plan.fused == 3
    assert view.plan.totals.redundant > 0
    view.stages.value = 3
    assert len(view.plan.stages) == 3
    assert max(map(sum, memory(view.plan))) > 0


@pytest.mark.long
def test_what_cannot_be_had_is_told_and_mended():
    view = explorer()
    picture = view.picture.value
    view.tiles.max = 200
    view.slice_method.value = "vertical"
    view.tiles.value = 97
    assert view.plan is None
    assert "cannot be cut into 1×97 tiles" in view.figures.value
    assert view.picture.value != b""
    view.tiles.value = 4
    assert view.plan.num_ranks == 5
    assert view.picture.value != picture  # vertical now


def test_it_begins_where_the_job_is():
    view = explorer(num_spatial_parts=6, halo_D2=True, fused_layers=2, slice_method="horizontal")
    assert (view.tiles.value, view.fused.value, view.slice_method.value) == (6, 2, "horizontal")
    assert view.plan.stages[0].team.tiling.grid == (1, 6, 1)


def test_a_notebook_without_a_kernel_has_its_picture():
    view = explorer()
    data = view._repr_mimebundle_()
    assert base64.b64decode(data["image/png"]) == bytes(view.picture.value)
    assert "application/vnd.jupyter.widget-view+json" in data
