"""Positions that the code names, places of largest numbers, diagonals and unpooling, on tiles."""

import pytest
import torch
from running import captured
from tiled import Call, check_tiled, noise
from torch import nn
from torch.nn import functional as F
from training_steps import check as check_gradients
from training_steps import grid

from spnb.ir.region import Region
from spnb.rules import rule_of

SHAPE = (2, 4, 8, 12)
ROWS, COLUMNS = torch.tensor([0, 2, 2, 7]), torch.tensor([1, -2])


def unpooled(x, kernel=2, stride=None, padding=0):
    pooled, places = F.max_pool2d(x, kernel, stride, padding, return_indices=True)
    return F.max_unpool2d(pooled + 1, places, kernel, stride, padding, output_size=x.shape[-2:])


def written(x, rows):
    y = x.clone()
    y[:, :, rows] = 2.0
    return y


OPERATORS = {
    "rows": lambda x: x[:, :, [0, 2, 3]],
    "rows of a tensor": lambda x: x[:, :, ROWS],
    "index_select": lambda x: x.index_select(3, ROWS),
    "rows and columns": lambda x: x[:, :, ROWS[:, None], COLUMNS],
    "computed rows": lambda x: x[:, :, torch.arange(8) // 2],
    "one row": lambda x: x[..., [5], :] + x,
    "every third": lambda x: x[:, :, 1::3, ::2],
    "nearest by index": lambda x: x[..., (torch.arange(18) / 1.5).long()],
    "written rows": lambda x: written(x, ROWS),
    "written rows from the end": lambda x: written(x * 1, torch.tensor([-1, 2])),
    "triu": lambda x: x.triu(-1),
    "tril": lambda x: x.tril(2),
    "diagonal": lambda x: x.diagonal(dim1=2, dim2=3),
    "diagonal above": lambda x: x.diagonal(3, 2, 3),
    "diagonal below": lambda x: x.diagonal(-3, 2, 3),
    "diagonal of columns": lambda x: x.diagonal(1, 3, 2),
    "diagonal through channels": lambda x: x.diagonal(1, 1, 3),
    "trace": lambda x: x.diagonal(dim1=2, dim2=3).sum(-1),
    "diagonal of channels": lambda x: (x.flatten(2) @ x.flatten(2).mT).diagonal(dim1=1, dim2=2),
    "argmax of rows": lambda x: x.argmax(2),
    "argmin of columns": lambda x: x.argmin(3, keepdim=True),
    "argmax of positions": lambda x: x.flatten(2).argmax(2),
    "argmax of equal numbers": lambda x: x.round().flatten(2).argmax(2),
    "argmax of everything": lambda x: x.argmax(),
    "maximum and its place": lambda x: x.max(3),
    "minimum and its place": lambda x: x.flatten(2).min(2, keepdim=True),
    "count_nonzero": lambda x: (x > 0).count_nonzero((2, 3)),
    "number of positions": lambda x: (x > 0).sum((2, 3)),
    "largest whole number": lambda x: x.round().long().amax((2, 3)),
    "product": lambda x: x.prod(3),
    "product of everything": lambda x: x.prod(),
    "unpooled": unpooled,
    "unpooled with a gap": lambda x: unpooled(x, 2, 3),
    "unpooled with padding": lambda x: unpooled(x, 3, 3, 1),
    "unpooled values of a decoder": lambda x: F.avg_pool2d(unpooled(x.relu()), 3, 1, 1),
}


@pytest.mark.parametrize("operator", OPERATORS)
def test_an_operator_is_tiled(operator):
    plans = check_tiled(Call(OPERATORS[operator]), SHAPE, grids=[(2, 3), (1, 4)])
    assert not any(plan.gathered for plan in plans)


VOLUMES = {
    "rows": lambda x: x[:, :, [0, 2, 3]],
    "triu": lambda x: x.triu(),
    "diagonal": lambda x: x.diagonal(dim1=2, dim2=4),
    "argmax": lambda x: x.flatten(2).argmax(2),
    "product": lambda x: x.prod(3),
    "unpooled": lambda x: F.max_unpool3d(*F.max_pool3d(x, 2, return_indices=True), 2),
}


@pytest.mark.parametrize("operator", VOLUMES)
def test_an_operator_on_a_volume_is_tiled(operator):
    plans = check_tiled(Call(VOLUMES[operator]), (1, 2, 4, 6, 8), grids=[(2, 1, 2)])
    assert not any(plan.gathered for plan in plans)


def test_rows_in_another_order_are_not_gathered():
    plans = check_tiled(Call(lambda x: x[:, :, [5, 0, 2]]), SHAPE, grids=[(2, 2)])
    assert not any(plan.gathered for plan in plans)


def test_windows_of_unpooling_that_overlap_are_gathered():
    net = Call(lambda x: unpooled(x, 3, 2, 1) * 0)
    plans = check_tiled(net, SHAPE, grids=[(2, 2)], allow_gather=True)
    assert all(plan.gathered for plan in plans)


def test_a_row_that_no_window_of_unpooling_reaches_is_zero():
    """The only row of windows is held by all tiles; where it is not read, it was not computed."""
    graph = captured(Call(unpooled).double(), [(1, 1, 3, 8)], torch.float64)
    rule = next(rule_of(node) for node in graph.nodes if node.op == "spnb.max_unpool.default")
    region = Region(((0, 1), (2, 3), (0, 8)))
    needs = [Region(tuple(rule.need(k, a, span) for a, span in enumerate(region.spans)))
             for k in range(2)]  # fmt: skip
    not_computed = [noise(1, 1, 1, 4), torch.full((1, 1, 1, 4), 2 * 8 + 1)]
    assert not rule.apply(not_computed, needs, region, {}).any()


@pytest.mark.parametrize("operator", ["rows of a tensor", "diagonal", "product", "unpooled"])
def test_gradients(operator):
    torch.manual_seed(0)
    net = Call(lambda m, x: OPERATORS[operator](m[0](x)), nn.Conv2d(4, 4, 3, padding=1)).double()
    x = noise(*SHAPE)
    with torch.no_grad():
        like = net(x)
    check_gradients(net, x, noise(*like.shape, seed=2), [grid(2, 2)])


def test_unpooling_of_sequences():
    def unpooled_1d(x):
        pooled, places = F.max_pool1d(x, 2, return_indices=True)
        return F.max_unpool1d(pooled + 1, places, 2, output_size=x.shape[-1:])

    plans = check_tiled(Call(unpooled_1d), (2, 3, 21))
    assert not any(plan.gathered for plan in plans)
