"""Convolution, pooling, unfolding."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import AVG_POOLS, CONVS, MAX_POOLS
from tiled import Call, check, check_regions, check_tiled
from torch import nn
from torch.nn import functional as F

from spnb.capture.export import capture
from spnb.rules import Window, rule_of

FEW = settings(max_examples=15, deadline=None, derandomize=True)
SIZES = {1: (2, 4, 29), 2: (2, 4, 13, 11), 3: (1, 4, 7, 6, 8)}


@pytest.mark.long
@FEW
@given(data=st.data(), axes=st.sampled_from([1, 2, 3]))
def test_convolution(data, axes):
    numbers = lambda low, high: data.draw(st.tuples(*[st.integers(low, high)] * axes))  # noqa: E731
    stride = numbers(1, 3)
    words = ["valid", *(["same"] if max(stride) == 1 else [])]
    layer = CONVS[axes](
        4,
        8,
        numbers(1, 4),
        stride,
        data.draw(st.one_of(st.just(numbers(0, 3)), st.sampled_from(words))),
        numbers(1, 2),
        groups=data.draw(st.sampled_from([1, 2, 4])),
        bias=data.draw(st.booleans()),
    )
    check(layer, SIZES[axes], grids=None if axes < 3 else [(2, 1, 2)])


@pytest.mark.long
@FEW
@given(data=st.data(), axes=st.sampled_from([1, 2, 3]), largest=st.booleans())
def test_pool(data, axes, largest):
    kernel = data.draw(st.integers(1, 3))
    stride, padding = data.draw(st.integers(1, 3)), data.draw(st.integers(0, kernel // 2))
    ceil = data.draw(st.booleans())
    if largest:
        dilation = data.draw(st.integers(1, 2))
        layer = MAX_POOLS[axes](kernel, stride, padding, dilation, ceil_mode=ceil)
    else:
        layer = AVG_POOLS[axes](kernel, stride, padding, ceil, data.draw(st.booleans()))
    check(layer, SIZES[axes], grids=None if axes < 3 else [(1, 2, 2)])


@pytest.mark.parametrize("override", [1, 5])
def test_average_with_a_divisor_of_its_own(override):
    check(nn.AvgPool2d(3, 2, 1, divisor_override=override), SIZES[2])


@pytest.mark.parametrize("pool", [(2,), (3, 2, 1), (3, 1, 1, 2), (2, 2, 0, 1)])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_places_of_maxima_are_those_in_the_image(pool, axes):
    layer = MAX_POOLS[axes](*pool, return_indices=True)
    check(layer, SIZES[axes], grids=None if axes < 3 else [(2, 1, 2)])


def test_one_window_over_all_of_space_is_a_mean():
    net = Call(lambda x: x * F.avg_pool2d(x, x.shape[2:]))
    plan, *_ = check(net, SIZES[2])
    assert any(node.op.startswith("spnb.partial") for node in plan.stages[0].nodes)
    check_tiled(Call(lambda x: F.max_pool2d(x, x.shape[2:])), SIZES[2])


@pytest.mark.parametrize("options", [{}, {"padding": 1, "stride": 2}, {"dilation": 2}])
def test_unfold(options):
    check(nn.Unfold(3, **options), SIZES[2])


def test_windows_along_one_dimension():
    check(Call(lambda x: x.unfold(2, 4, 3).mean(-1)), SIZES[2])
    check(Call(lambda x: x.unfold(3, 3, 1).unfold(2, 2, 2).amax((4, 5))), SIZES[2])


def test_convolution_over_dimensions_in_another_order():
    check(Call(lambda m, x: m[0](x.transpose(2, 3)), nn.Conv2d(4, 4, (3, 5), 2, 1)), SIZES[2])


def test_one_row_of_tokens():
    flat = lambda m, x: m[0](x.permute(0, 2, 1, 3).flatten(0, 1))  # noqa: E731
    check(Call(flat, nn.Conv1d(4, 4, 3, padding=1)), SIZES[2])


def test_a_kernel_that_is_computed():
    net = Call(lambda x, w: F.conv2d(x, w.view(8, 4, 3, 3), padding=1))
    check(net, SIZES[2], (1, 8 * 4 * 9))


def test_a_height_of_one_grows_with_its_padding():
    check(nn.Conv2d(4, 4, 3, padding=2), (2, 4, 1, 9))


def test_need_runs_past_the_extent_by_the_padding():
    layer = nn.Conv2d(1, 1, 5, stride=2, dilation=2, padding=4)
    rule = rule_of(capture(layer, (1, 1, 20, 20), torch.float64).nodes[-1])
    assert isinstance(rule, Window)
    assert rule.need(0, 1, (0, 1)) == (-4, 5)
    assert rule.need(0, 1, (3, 5)) == (2, 13)


def test_padding_wider_than_the_window():
    check_regions(nn.Conv2d(4, 4, 3, padding=8), SIZES[2])
    check_tiled(nn.Conv2d(4, 4, 3, padding=8), SIZES[2], grids=[(3, 3), (1, 5)])


def test_an_average_over_volumes_of_which_a_tile_has_less_than_a_window():
    pool = nn.AvgPool3d(2, stride=(1, 1, 3), padding=(0, 0, 1))
    check_tiled(pool, (1, 2, 7, 7, 7), grids=[(1, 1, 2), (1, 1, 3)])
