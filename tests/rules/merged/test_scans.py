"""Scans along an axis that tiles cut: cumulative sums, products and largest numbers."""

import pytest
import torch
from tiled import Call, check, check_tiled, noise
from torch import nn
from training_steps import check as check_gradients
from training_steps import grid

SCANS = {
    "cumsum": lambda x, d: x.cumsum(d),
    "cumprod": lambda x, d: (1 + 0.1 * x).cumprod(d),
    "logcumsumexp": lambda x, d: x.logcumsumexp(d),
    "cummax": lambda x, d: x.cummax(d)[0],
    "cummin": lambda x, d: x.cummin(d).values,
    "whole numbers": lambda x, d: (x > 0).cumsum(d),
    "backwards": lambda x, d: x.flip(d).cumsum(d).flip(d),
    "with a halo around": lambda x, d: nn.functional.avg_pool2d(x.cumsum(d), 3, 1, 1).cumsum(d),
}


@pytest.mark.parametrize("dimension", [2, -1])
@pytest.mark.parametrize("scan", SCANS)
def test_a_scan_goes_on_from_the_tiles_before(scan, dimension):
    net = Call(lambda x: SCANS[scan](x, dimension))
    plans = check_tiled(net, (2, 3, 9, 11), grids=[(2, 3), (1, 4), (3, 1)])
    assert not any(plan.gathered for plan in plans)


@pytest.mark.parametrize("shape", [(2, 3, 9, 11), (1, 2, 5, 6, 7), (1, 1, 2, 9)])
def test_sums_of_flattened_positions(shape):
    def summed(x):
        x = torch.where(x > 2, torch.inf, x)
        return x.flatten(2).cumsum(2) + x.movedim(1, -1).flatten(1, -2).cumsum(1).mT

    grids = [(2, 3), (3, 1), (1, 4)] if len(shape) == 4 else [(2, 2, 2), (1, 2, 3)]
    plans = check_tiled(Call(summed), shape, grids=grids)
    assert not any(plan.gathered for plan in plans)


@pytest.mark.parametrize("dimension", [2, 3, 4])
def test_a_scan_through_a_volume(dimension):
    plans = check_tiled(Call(lambda x: x.cumsum(dimension)), (1, 2, 5, 6, 7), grids=[(2, 2, 2)])
    assert not any(plan.gathered for plan in plans)


def test_a_scan_of_micro_batches():
    check_tiled(Call(lambda x: x.cumsum(2)), (4, 2, 8, 6), grids=[(2, 2)], parts=2)


def test_a_scan_with_more_tiles_than_rows():
    check_tiled(Call(lambda x: x.cumsum(2)), (1, 2, 3, 8), grids=[(5, 2)])


@pytest.mark.parametrize("scan", ["cumsum", "cummax"])
def test_a_scan_of_channels_is_local(scan):
    for plan in check(Call(lambda x: SCANS[scan](x, 1)), (2, 3, 6, 5)):
        assert not any(node.kind == "partial" for node in plan.graph.nodes)


def test_nan_goes_on_to_the_tiles_after():
    def with_nan(x):
        return torch.where(x > 1.5, torch.nan, x)

    net = Call(lambda x: (with_nan(x).cumsum(3), with_nan(x).cummax(3)[0]))
    check_tiled(net, (1, 4, 6, 9), grids=[(2, 3)])


@pytest.mark.parametrize("scan", ["cumsum", "cumprod", "logcumsumexp"])
def test_gradients_of_a_scan(scan):
    torch.manual_seed(0)
    net = Call(lambda m, x: SCANS[scan](m[0](x), 2), nn.Conv2d(3, 3, 3, padding=1)).double()
    x = noise(2, 3, 9, 8)
    check_gradients(net, x, noise(2, 3, 9, 8, seed=2), [grid(2, 2)])
