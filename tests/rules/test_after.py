"""Every kind of operator on a tiled, a merged and a gathered value."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from running import assert_equal, planned, run
from tiled import Call, check, check_regions, check_tiled, noise
from torch import nn
from torch.nn import functional as F

from spnb.ir.tiling import Tiling

FEW = settings(max_examples=40, deadline=None, derandomize=True)
SHAPE = (2, 4, 8, 12)

BEFORE = {
    "tiled": lambda x: x,
    "merged": lambda x: x * x.mean((2, 3), keepdim=True),
    "narrow": lambda x: x.mean(3, keepdim=True),
    "flat": lambda x: x.flatten(2).sigmoid().view(x.shape),
    "gathered": lambda x: torch.fft.fft(x, dim=3).real,
}
"""What has been done to the image before an operator."""

OPERATORS = {
    "reflect": lambda x: F.pad(x, (0, 0, 2, 1), mode="reflect"),
    "frame": lambda x: F.pad(x, (2, 1, 3, 2), value=1.5),
    "crop": lambda x: F.pad(x, (0, 0, -2, 1), mode="replicate"),
    "torus": lambda x: F.pad(x, (0, 0, 1, 2), mode="circular"),
    "roll": lambda x: x.roll((2, 1), (2, 3)),
    "flip": lambda x: x.flip((2,)),
    "max_pool": lambda x: F.max_pool2d(x, (3, 1), (2, 1), (1, 0)),
    "avg_pool": lambda x: F.avg_pool2d(x, (3, 1), (2, 1), (1, 0), count_include_pad=False),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, (3, 1)),
    "resize": lambda x: F.interpolate(x, size=(5, 9), mode="bilinear"),
    "grow": lambda x: F.interpolate(x, scale_factor=(2, 3), mode="nearest"),
    "slice": lambda x: x[:, :, 1:-2:2],
    "select": lambda x: x[:, 1],
    "unfold": lambda x: x.unfold(2, 4, 2).mean(-1),
    "softmax": lambda x: x.softmax(1),
    "space": lambda x: x.softmax(2),
    "mean": lambda x: x.mean((2, 3)),
    "variance": lambda x: x.var((2, 3), keepdim=True),
    "largest": lambda x: x.amax((2, 3)),
    "norm": lambda x: F.instance_norm(x),
    "group": lambda x: F.group_norm(x, 2),
    "layer": lambda x: F.layer_norm(x, x.shape[1:]),
    "transpose": lambda x: x.transpose(2, 3),
    "permute": lambda x: x.permute(0, 2, 3, 1).flatten(1, 2),
    "cat": lambda x: torch.cat([x, x.flip(1)], 2),
    "stack": lambda x: torch.stack([x, x + 1], 2),
    "where": lambda x: torch.where(x > 0, x, -x),
    "product": lambda x: x.permute(0, 2, 3, 1) @ torch.ones(4, 3, dtype=x.dtype),
}


@pytest.mark.slow(but_each=2)
@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("operator", OPERATORS)
def test_an_operator_after(before, operator):
    net = Call(lambda x: OPERATORS[operator](BEFORE[before](x) + 0.5))
    check_regions(net, SHAPE, most=8)
    check_tiled(net, SHAPE, grids=[(2, 2)], allow_gather=True)


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize(
    "layer", [nn.Conv2d(4, 3, (3, 1), 2, (2, 1)), nn.ConvTranspose2d(4, 3, (3, 2), 2, 1, 1)]
)
def test_a_layer_after(before, layer):
    net = Call(lambda m, x: m[0](BEFORE[before](x)), layer)
    check_regions(net, SHAPE, most=8)
    check_tiled(net, SHAPE, grids=[(2, 2)], allow_gather=True)


@pytest.mark.long
@FEW
@given(
    around=st.lists(st.integers(-3, 3), min_size=4, max_size=4),
    mode=st.sampled_from(["constant", "reflect", "replicate", "circular"]),
)
def test_a_border_around_a_gathered_value(around, mode):
    net = Call(lambda x: F.pad(torch.fft.fft(x, dim=3).real, around, mode=mode))
    check(net, SHAPE, grids=[(2, 2)], allow_gather=True)


@pytest.mark.parametrize("operator", OPERATORS)
def test_nodata_stays_where_it_is(operator):
    net, image = Call(OPERATORS[operator]), noise(*SHAPE)
    image[0, :, 3, 5], image[1, 2, 7, 11] = float("nan"), float("inf")
    plan = planned(net, [SHAPE], [Tiling.even((1, 2, 2))], allow_gather=True)
    tiled, _ = run(plan, net, image)
    with torch.no_grad():
        assert_equal(tiled, net(image))
