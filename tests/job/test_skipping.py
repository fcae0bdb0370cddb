"""Background is not computed again and again, and the output is as if it were."""

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from networks import dense, layers, randomize
from random_plans import RANDOM_NETWORKS, few_and_many
from torch import nn
from torch.nn import functional as F

import spnb
from spnb.driver.rank_sources import sources_for_rank
from spnb.errors import CaptureError, OptionError, PlanError
from spnb.job.reading import Reading

RNG = np.random.default_rng(0)


def slide(height=96, width=128, background=255, dtype=np.uint8, channels=3):
    """Noise in one place, and background all around."""
    pixels = np.full((1, channels, height, width), background, dtype)
    pixels[..., 40:60, 50:70] = RNG.integers(1, 200, (1, channels, 20, 20))
    return pixels


def session(net, size=(96, 128), **options):
    each_by_itself = {"halo_D2": True, "fused_layers": "all", "patches": 16}
    given = {"split_size": 1, "num_spatial_parts": 1, "batch_size": 1} | each_by_itself
    job = spnb.Job(net, image_size=size, **given | options)
    return spnb.InProcess(spnb.plan(job), progress=False)


def run(net, image, skip, **options):
    return session(net, image.shape[2:], **options).infer(image, skip=skip)


class UpAndDown(nn.Module):
    """Strides, a transposed convolution, resizing and a joint, as a U-Net has them."""

    def __init__(self, mode="nearest", factor=2):
        super().__init__()
        self.down, self.mode, self.factor = nn.Conv2d(3, 4, 3, factor, 1), mode, factor
        self.up = nn.ConvTranspose2d(4, 4, 4, 2, 1)
        self.last = nn.Conv2d(8, 2, 3, padding=1)

    def forward(self, x):
        y = F.relu(self.down(x))
        corners = None if self.mode == "nearest" else False
        size = x.shape[2:]
        z = F.interpolate(y, size=size, mode=self.mode, align_corners=corners)
        return self.last(torch.cat([z, F.interpolate(self.up(y), size=size)], 1))


@pytest.mark.long
@few_and_many(20)
def test_random_networks(examples):
    @settings(RANDOM_NETWORKS, max_examples=examples)
    @given(data=st.data())
    def check_one(data):
        body = data.draw(st.lists(layers(2, 2), min_size=1, max_size=4))
        net = randomize(nn.Sequential(nn.Conv2d(3, 2, 1), *body), data.draw(st.integers(0, 99)))
        size = [data.draw(st.integers(24, 48)) for _ in range(2)]
        pixels = np.zeros((data.draw(st.integers(1, 2)), 3, *size))
        low, high = ([data.draw(st.integers(0, n)) for n in size] for _ in range(2))
        pixels[..., low[0] : high[0], low[1] : high[1]] = 0.5
        options = {"patches": data.draw(st.sampled_from([6, 9, 16])), "precision": "fp64"}
        options |= {"num_spatial_parts": data.draw(st.sampled_from([1, 2]))}
        options |= {"batch_size": len(pixels), "parts": len(pixels)}
        try:
            result = run(net, pixels, 0.0, **options)
        except (PlanError, CaptureError, OptionError):
            assume(False)
        assert result.check(1e-12).passed

    check_one()


@pytest.mark.parametrize(("mode", "factor"), [("nearest", 2), ("nearest", 3), ("bilinear", 2)])
def test_few_of_many_patches_are_computed(mode, factor):
    net = randomize(UpAndDown(mode, factor))
    result = run(net, slide(192, 384), 255, patches=72)
    assert result.check().passed
    (counts,) = result.skipped.to_dict("records")
    assert counts["patches"] == 72 and counts["background"] > 50
    assert counts["computed"] < counts["background"] // 2
    steps = result.timings
    convolutions = steps[(steps["layer"] == "down") & (steps["kind"] == "compute")]
    assert len(convolutions) == 72 - counts["background"] + counts["computed"]


def test_weights_that_depend_on_the_position_have_answers_of_their_own():
    result = run(randomize(UpAndDown("bilinear", 3)), slide(192, 384), 255, patches=72)
    assert result.check().passed


def test_the_plan_says_how_many():
    image = slide()
    result = run(dense(), image, 255, num_spatial_parts=4)
    foreseen = result.plan.skipped(image, 255)
    assert foreseen.to_dict("list") == result.skipped.to_dict("list")
    assert len(foreseen) == 4 and foreseen["background"].sum() > 20


@pytest.mark.parametrize("preprocess", [None, "imagenet", lambda x: 2 * x - 1])
@pytest.mark.parametrize("skip", [">=230", (np.eye(2)[:, ::-1], 255)])
def test_a_limit_or_a_mask_stands_for_a_constant(skip, preprocess):
    image = slide()
    image[:, :, :30] = RNG.integers(230, 256, image[:, :, :30].shape)
    ranks = session(dense())
    result = ranks.infer(image, skip=skip, preprocess=preprocess)
    assert result.check().passed
    assert 0 < result.skipped["background"].item() < 16
    number = 255 if isinstance(skip, tuple) else 230
    constant = ranks.infer(np.full_like(image, number), preprocess=preprocess)
    plain = ranks.infer(image, preprocess=preprocess)
    skipped = torch.zeros_like(plain.output, dtype=torch.bool)
    for patch in result.reports[0].skipped.answered:
        for _, region in patch.regions:
            rows, columns = region.spans[1:]
            skipped[:, :, slice(*rows), slice(*columns)] = True
    expected = torch.where(skipped, constant.output, plain.output)
    torch.testing.assert_close(result.output, expected)
    assert not torch.equal(result.output, plain.output)


def test_nodata_is_background_too():
    image = slide(background=0, dtype=np.uint16)
    result = session(dense()).infer(image, nodata=0, skip=0)
    assert result.output.isnan().any() and result.skipped["background"].item() >= 4
    assert result.check().passed


def test_a_tiff_may_store_white_as_0(tmp_path):
    pixels = slide(channels=1)[0, 0]
    tifffile.imwrite(tmp_path / "a.tif", 255 - pixels, photometric="miniswhite")
    net = randomize(nn.Conv2d(1, 2, 3, padding=1))
    ranks = session(net)
    counts = [
        ranks.infer(tmp_path / "a.tif", skip=skip).skipped["background"].item()
        for skip in (0, "<=5", ">=250")
    ]
    assert counts[0] == counts[1] >= 4 and counts[2] == 0


def test_a_mask_is_read_from_a_file(tmp_path):
    mask = np.full((96, 128), 255, np.uint8)
    mask[40:60, 50:70] = 0
    tifffile.imwrite(tmp_path / "mask.tif", mask)
    counts = [
        run(dense(), slide(), skip).skipped["background"].item()
        for skip in ((tmp_path / "mask.tif", 255), 255)
    ]
    assert counts[0] == counts[1] >= 4


def test_a_tile_that_reads_all_of_its_halo_is_skipped():
    result = run(dense(), slide(), 255, patches=1, num_spatial_parts=9)
    assert result.check().passed and result.skipped["background"].sum() > 2


class Coordinates(nn.Module):
    def forward(self, x):
        return x * torch.arange(x.shape[-1])


class OfTheWhole(nn.Module):
    def forward(self, x):
        return x - x.mean((2, 3), keepdim=True)


@pytest.mark.parametrize(
    ("net", "skip", "options", "message"),
    [
        (dense(), 255, {"fused_layers": 2}, "skip: tiles and patches exchange halos here, so"),
        (Coordinates(), 255, {}, r"skip: what .* may depend on the place in the image"),
        (OfTheWhole(), 255, {}, "skip: OfTheWhole needs figures of the whole image"),
        (dense(), "white", {}, "skip is 'white': give the number of the background, as 255"),
        (dense(), True, {}, "skip is True: give the number"),
        (dense(), ">=x", {}, "skip is '>=x': give the number"),
        (dense(), 256, {}, "skip is 256, but array holds whole numbers from 0 to 255"),
        (
            dense(),
            (np.ones(4), 1),
            {},
            r"skip has a mask of shape \(4,\), but the image has 2",
        ),
    ],
)
def test_what_cannot_be_skipped_is_refused(net, skip, options, message):
    with pytest.raises((OptionError, ValueError), match=message):
        run(net, slide(), skip, **options)


def test_ranks_that_cannot_see_the_file_skip_too():
    plan = session(dense()).plan
    sources = plan.open_for_run(slide(), Reading(skip=">=250", preprocess="imagenet"))
    (name,) = sources
    held = sources_for_rank(sources, plan.rank_plan(0), unseen=[name])[name]
    each = [step.region for step in plan.rank_plan(0).received("input")]
    assert any(held.holds_only_background(region) for region in each)
    for region in each:
        np.testing.assert_array_equal(held.read(region), sources[name].read(region))
