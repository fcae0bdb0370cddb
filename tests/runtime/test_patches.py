"""Tiles that are computed in patches, one after the other, in the memory of one."""

import pytest
import torch
import zarr
from hypothesis import assume, given, note, settings
from hypothesis import strategies as st
from networks import chains, randomize
from random_plans import RANDOM_NETWORKS, few_and_many
from running import assert_equal, planned, run
from torch import nn

import spnb
from spnb.analysis.memory import activation_bytes, held_value_bytes
from spnb.analysis.patched_memory import disk_bytes
from spnb.analysis.traffic import totals
from spnb.errors import CaptureError, PlanError
from spnb.ir.program import Compute, Keep, Receive
from spnb.ir.region import Region
from spnb.ir.tiling import Tiling

ALL = 1 << 30
FUSED = {"halo_D2": True, "fused_layers": "all"}


def local(tiles=4, **options):
    """A job on a network of which each part of the result reads a part of the image only."""
    options = {"image_size": "97x131", "batch_size": 1, "split_size": 1} | options
    return spnb.Job("unet", num_spatial_parts=tiles, **FUSED, **options)


@pytest.mark.long
@few_and_many(20)
def test_random_networks(examples):
    @settings(RANDOM_NETWORKS, max_examples=examples)
    @given(data=st.data(), axes=st.sampled_from([1, 2, 2, 3]))
    def check_one(data, axes):
        net = data.draw(chains(axes)).double()
        size = [data.draw(st.integers(12, {1: 60, 2: 30, 3: 14}[axes])) for _ in range(axes)]
        batch, parts = data.draw(st.sampled_from([(1, 1), (2, 1), (3, 2)]))
        tiles, patches = ([data.draw(st.integers(1, 3)) for _ in range(axes)] for _ in range(2))
        tilings = [
            Tiling.even((1, *tiles)),
            Tiling.even((data.draw(st.integers(1, 2)), *[1] * axes)),
        ]
        tilings = tilings[: data.draw(st.integers(1, 2))]
        x = torch.randn(batch, 2, *size, generator=torch.Generator().manual_seed(1)).double()
        try:
            plan = planned(net, tuple(x.shape), tilings, parts, ALL, patches=patches)
        except (PlanError, CaptureError) as refusal:
            note(str(refusal))
            assume(False)
        with torch.inference_mode():
            untiled = net(x)
        tiled, _ = run(plan, net, x)
        assert_equal(tiled, untiled)

    check_one()


@pytest.mark.parametrize("patches", [2, 4, 6])
def test_a_rank_computes_and_reads_each_patch_by_itself(patches):
    plan = spnb.plan(local(2, patches=patches))
    for rank in range(plan.num_ranks):
        *each, last = plan.programs(rank, 1)
        assert len(each) == patches
        assert [type(step).__name__ for step in last.steps] == ["Send"]
        own = [step.own for p in each for step in p.steps if isinstance(step, Keep)]
        assert sum(region.size for region in own) == plan.tile_region(rank).size
        (hull,) = {step.whole for p in each for step in p.steps if isinstance(step, Keep)}
        assert hull == plan.tile_region(rank)
        for program in each:
            (read,) = [step for step in program.steps if isinstance(step, Receive)]
            first = next(step for step in program.steps if isinstance(step, Compute))
            assert read.region == first.clipped[0]
            assert read.region != plan.tile_region(rank)


def test_a_patch_is_as_nearly_square_as_may_be():
    tall = spnb.Job("unet", image_size="4096x1024", split_size=1, num_spatial_parts=1, **FUSED)
    assert tall.replace(patches=4).patch_grid == (4, 1)
    assert tall.replace(patches=16).patch_grid == (8, 2)
    assert tall.replace(num_spatial_parts=4, slice_method="vertical", patches=16).patch_grid == (
        16,
        1,
    )


@pytest.mark.long
def test_more_patches_take_less_memory_and_more_work():
    plans = [spnb.plan(local(4, image_size=2048, patches=n)) for n in (1, 4, 16)]
    most, some, least = (activation_bytes(plan, 0) for plan in plans)
    output = 4 * 10 * 1024**2
    assert least - output < (some - output) / 2 < (most - output) / 4
    work = [totals(plan).flops for plan in plans]
    assert work == sorted(work)
    assert totals(plans[2]).redundant > totals(plans[1]).redundant > totals(plans[0]).redundant


@pytest.mark.long
def test_the_image_of_a_batch_in_parts_is_exact_and_the_clock_counts_all():
    plan = spnb.plan(local(2, batch_size=3, parts=2, patches=6))
    result = spnb.InProcess(plan).infer()
    assert result.check().passed
    assert set(plan.simulate().timings.kind) >= {"read", "compute", "unpack"}
    counted = result.timings.query("kind == 'unpack'").what
    assert (counted == "patch").sum() == 2 * 2 * 6


@pytest.mark.long
def test_what_the_next_stage_needs_is_handed_over_when_the_tile_is_complete():
    job = spnb.Job("resnet20_v1", image_size=75, batch_size=2, parts=2, **FUSED, patches=4)
    plan = spnb.plan(job.replace(precision="fp64"))
    assert plan.stages[0].num_patches == 4
    result = spnb.InProcess(plan).infer()
    assert result.check().passed
    assert spnb.plan(job.replace(patches=1)).totals.bytes == plan.totals.bytes / 2


def test_several_outputs_are_kept_and_saved_by_tile(tmp_path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.pool = nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2)

        def forward(self, x):
            x = self.conv(x)
            return {"fine": x, "coarse": self.pool(x)}

    job = spnb.Job(randomize(Two()), image_size="301x283", batch_size=1, split_size=1, **FUSED)
    result = spnb.InProcess(spnb.plan(job.replace(patches=6))).infer()
    assert result.check().passed
    path = result.save(tmp_path / "fine.zarr", "fine")
    assert torch.equal(torch.from_numpy(zarr.open(str(path))[:]), result.output["fine"])


def test_a_card_and_a_picture_show_the_patches():
    plan = spnb.plan(local(2, patches=6))
    assert "each tile in 3×2 patches, one after the other" in str(plan)
    assert "patches" not in str(spnb.plan(local(2)))


class Excited(nn.Module):
    """Weights of channels that are figures of the whole image."""

    def __init__(self):
        super().__init__()
        self.weighs = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1), nn.Sigmoid())

    def forward(self, x):
        return x * self.weighs(x)


@pytest.mark.parametrize("options", [{}, FUSED, {"batch_size": 3, "parts": 2}], ids=str)
@pytest.mark.parametrize("tiles", [1, 2])
def test_patches_that_need_each_other_exchange_halos_and_figures(options, tiles):
    net = nn.Sequential(
        *(nn.Conv2d(3, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
        *(Excited(), nn.Conv2d(4, 4, 5, padding=2)),
    )
    options = {"image_size": "41x32", "batch_size": 1, "split_size": 1} | options
    job = spnb.Job(randomize(net), num_spatial_parts=tiles, precision="fp64", patches=6, **options)
    plan = spnb.plan(job)
    assert "in turns; they exchange halos and figures of the image" in str(plan)
    result = spnb.InProcess(plan).infer()
    assert result.check().passed
    turns = result.timings.query("what == 'patch' and kind == 'compute'")
    assert len(turns) >= 6 * tiles * plan.job.parts


def test_patches_in_turns_take_the_memory_of_one():
    net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.Conv2d(16, 1, 3))
    job = spnb.Job(net, image_size=1024, batch_size=1, split_size=1, num_spatial_parts=1)
    for training in (False, True):
        whole, patched = (spnb.plan(job.replace(patches=n), training=training) for n in (1, 16))
        assert held_value_bytes(patched, 0) < held_value_bytes(whole, 0) / 4
        assert disk_bytes(patched, 0) > 16 * 4 * 1024**2


def test_a_gather_is_for_every_patch_and_more_patches_than_pixels_are_refused():
    sorting = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), Sorted())
    job = spnb.Job(sorting, image_size=16, batch_size=1, split_size=1, **FUSED, allow_gather=True)
    assert spnb.InProcess(spnb.plan(job.replace(patches=4))).infer().check().passed
    with pytest.raises(PlanError, match=r"16×16 pixels cannot be cut into 32×32 patches"):
        spnb.plan(job.replace(patches=256))


class Sorted(nn.Module):
    def forward(self, x):
        return x.sort(dim=2)[0]


def test_a_rank_can_be_given_its_tile_by_hand():
    plan = spnb.plan(local(2, patches=4))
    x = plan.open().read(Region.whole((1, 97, 131)))
    session = spnb.InProcess(plan)
    result = session.infer(x)

    def work(here):
        (_, *tile) = here.region.slices_in(Region.whole((1, 97, 131)))
        return here.forward(torch.from_numpy(x[:, :, *tile].copy()))

    pieces = [piece for each in session.run(work) for piece in each]
    for piece in pieces:
        index = piece.region.slices_in(Region.whole((1, 97, 131)))[1:]
        assert torch.equal(piece.tensor, result.output[:, :, *index])
