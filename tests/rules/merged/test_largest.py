"""The k largest of all positions: each tile's own, merged."""

import pytest
import torch
from running import assert_equal, planned, run
from tiled import Call, check_tiled, noise
from torch import nn
from training_steps import check as check_training
from training_steps import grid

from spnb.errors import PlanError
from spnb.ir.tiling import Tiling

OPERATORS = {
    "numbers_and_places": lambda x: x.flatten(2).topk(5, 2),
    "smallest": lambda x: x.flatten(2).topk(5, 2, largest=False),
    "most_of_all": lambda x: x.flatten(2).topk(70, 2),
    "all": lambda x: x.flatten(2).topk(88, 2),
    "all_of_few": lambda x: x[:, :, :2, :2].flatten(2).topk(4, 2)[0].mean(2)[..., None] + x[..., 0],
    "rows": lambda x: x * x.topk(1, 2)[0] + x.topk(3, 3)[0].mean(3, keepdim=True),
    "channels_too": lambda x: x.flatten(1).topk(7)[0],
    "tokens": lambda x: x.flatten(2).mT.topk(4, 1),
}


@pytest.mark.slow(but_each=2)
@pytest.mark.parametrize("name", OPERATORS)
def test_the_largest_of_all_tiles_are_merged(name):
    for plan in check_tiled(Call(OPERATORS[name]), (2, 3, 8, 11), grids=[(2, 2), (1, 3)]):
        assert not plan.gathered


@pytest.mark.parametrize("largest", [True, False])
def test_nodata_is_larger_than_every_number(largest):
    net, x = Call(lambda x: x.flatten(2).topk(10, 2, largest)), noise(1, 1, 3, 4)
    x[0, 0, 0, :2], x[0, 0, 2] = float("nan"), float("inf") * (1 - 2 * largest)
    tiled, _ = run(planned(net, [x.shape], [Tiling.even((1, 3, 2))]), net, x)
    assert_equal(tiled[0], net(x)[0])


def test_of_equal_numbers_any_may_be_taken():
    net, x = Call(lambda x: x.flatten(2).topk(3, 2)), torch.ones(1, 1, 4, 4).double()
    numbers, places = run(planned(net, [x.shape], [Tiling.even((1, 2, 2))]), net, x)[0]
    assert_equal(numbers, net(x)[0])
    assert len(set(places.flatten().tolist())) == 3


def test_an_order_that_is_not_asked_for_is_pytorchs():
    net = Call(lambda x: x.flatten(2).topk(5, 2, sorted=False)[0])
    with pytest.raises(PlanError, match="topk, used like this, needs the whole extent 8×11"):
        planned(net, [(1, 2, 8, 11)], [Tiling.even((1, 2, 2))])


def test_gradients_reach_the_largest_numbers():
    net = nn.Sequential(
        nn.Conv2d(2, 2, 3, padding=1), Call(lambda x: x.flatten(2).topk(6, 2)[0])
    ).double()
    x, target = noise(1, 2, 8, 8), noise(1, 2, 6, seed=2)
    check_training(net, x, target, [grid(2, 2)], steps=1)
