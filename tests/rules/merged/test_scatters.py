"""Positions that are reduced into bins, and read from them again: superpixels, clusters."""

import pytest
import torch
from running import planned
from tiled import Call, check, check_tiled, noise
from torch import nn
from training_steps import check as check_training
from training_steps import grid

from spnb.errors import PlanError
from spnb.ir.tiling import Tiling

SHAPE = (2, 4, 8, 12)
BINS = 5


def numbers(x):
    """For each position, the number of its bin, from 0 on; some bins may have none."""
    return (x.flatten(2)[:, :1] * 2).round().long().clamp(-2, 2).add(2).expand(-1, 4, -1)


def fixed():
    return torch.arange(96).mul(7).remainder(BINS)


def bins(x, fill=0.0):
    return torch.full((x.shape[0], 4, BINS), fill, dtype=x.dtype)


def reduced(how, include_self=True):
    return lambda x: bins(x, 0.5).scatter_reduce(
        2, numbers(x), x.flatten(2), how, include_self=include_self
    )


def superpixels(x):
    """Means of superpixels, given back to their positions."""
    index, flat = numbers(x), x.flatten(2)
    count = bins(x).scatter_add(2, index, torch.ones_like(flat)).clamp(min=1)
    return (bins(x).scatter_add(2, index, flat) / count).gather(2, index).view(x.shape)


def assigned(x):
    """Soft sums of clusters by constant numbers of rows and columns, as of positions of a map."""
    y = torch.zeros(x.shape[0], 4, 3, x.shape[3], dtype=x.dtype)
    return y.index_add(2, torch.tensor([0, 1, 2, 2, 1, 0, 0, 1]), x, alpha=2)


NETWORKS = {
    "scatter_add": lambda x: bins(x).scatter_add(2, numbers(x), x.flatten(2)),
    "scatter_add_to_numbers": lambda x: bins(x, 1.5).scatter_add(2, numbers(x), x.flatten(2)),
    "scatter_add_to_a_value": lambda x: (
        x.flatten(2).mean(2, keepdim=True).expand(-1, -1, BINS).scatter_add(
            2, numbers(x), x.flatten(2)
        )
    ),
    "counts": lambda x: bins(x).scatter_add(2, numbers(x), torch.ones_like(x.flatten(2))),
    "constant_numbers": lambda x: bins(x).scatter_add(
        2, fixed().expand(x.shape[0], 4, -1), x.flatten(2)
    ),
    "index_add": lambda x: bins(x).index_add(2, fixed(), x.flatten(2)),
    "index_add_of_rows": assigned,
    "sum": reduced("sum"),
    "mean": reduced("mean"),
    "amax": reduced("amax"),
    "amin": reduced("amin"),
    "sum_without_own": reduced("sum", include_self=False),
    "mean_without_own": reduced("mean", include_self=False),
    "superpixels": superpixels,
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_bins_of_tiles_are_merged(name):
    plans = check(Call(NETWORKS[name]), SHAPE, grids=[(2, 3), (1, 4)])
    assert not any(plan.gathered for plan in plans)


def test_a_volume():
    def net(x):
        index = (x.flatten(2)[:, :1] > 0).long().expand(-1, 2, -1)
        return torch.zeros(1, 2, 2, dtype=x.dtype).scatter_add(2, index, x.flatten(2))

    assert not check_tiled(Call(net), (1, 2, 4, 5, 3), grids=[(2, 1, 2)])[0].gathered


def test_images_are_reduced_in_micro_batches():
    check_tiled(Call(superpixels), (4, 4, 8, 12), grids=[(2, 2)], parts=2)


@pytest.mark.parametrize("name", ["superpixels", "amax", "mean"])
def test_gradients(name):
    def net(m, x):
        return m[0](x) + NETWORKS[name](m[1](x)).flatten(2).mean(2)[..., None, None]

    trained = Call(net, nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)).double()
    x, target = noise(2, 4, 8, 12), noise(2, 4, 8, 12, seed=2)
    check_training(trained, x, target, [grid(2, 2)], steps=1)


def test_as_many_bins_as_positions_are_refused():
    def net(x):
        order = x.flatten(2).round().long().abs()
        return torch.zeros(2, 4, 96).to(x).scatter_add(2, order, x.flatten(2))

    with pytest.raises(PlanError, match="scatter_add, used like this, needs the whole extent 8×12"):
        planned(Call(net), [SHAPE], [Tiling.even((1, 2, 2))])
