"""Turned images beside the same images unturned: each tile receives a box of its own."""

import pytest
import torch
from running import planned
from tiled import Call, check_tiled, noise
from torch import nn
from training_steps import check as check_training
from training_steps import grid

from spnb.ir.tiling import Tiling

TURNS = {
    "added": lambda x: x + x.transpose(2, 3),
    "multiplied": lambda x: x.permute(0, 1, 3, 2) * x,
    "rotated": lambda x: torch.rot90(x, 1, (2, 3)) + torch.rot90(x, 3, (2, 3)) * x,
    "einsum": lambda x: torch.einsum("nchw->ncwh", x) - x,
    "chosen": lambda x: torch.where(x > x.mT, x, x.mT),
    "joined": lambda x: torch.cat([x.mT, x, x.mT], 2),
    "tokens": lambda x: x.flatten(2) + x.mT.flatten(2),
    "windows": lambda x: x.mT.unflatten(2, (3, 3)).unflatten(4, (3, 3)) + x.unflatten(
        2, (3, 3)
    ).unflatten(4, (3, 3)),
    "columns_of_rows": lambda x: x + x.mean(3, keepdim=True).mT,
}  # fmt: skip


@pytest.mark.slow(but_each=2)
@pytest.mark.parametrize("name", TURNS)
def test_a_turned_image_meets_itself(name):
    for plan in check_tiled(Call(TURNS[name]), (2, 3, 9, 9), grids=[(2, 2), (1, 3), (4, 1)]):
        assert not plan.gathered


def test_axes_of_a_volume_change_places():
    net = Call(lambda x: x + x.permute(0, 1, 3, 4, 2) * x.transpose(2, 4))
    for plan in check_tiled(net, (1, 2, 5, 5, 5), grids=[(2, 1, 2), (1, 3, 1), (2, 2, 2)]):
        assert not plan.gathered


def test_tiles_may_be_uneven_or_empty():
    net = Call(lambda m, x: m[0](x.mT) + x, nn.Conv2d(2, 2, 3, padding=1))
    check_tiled(net, (1, 2, 3, 3), grids=[(4, 2), (2, 5)])


def test_a_tile_receives_what_it_computes_and_no_more():
    tiling = Tiling.even((1, 3, 3))
    plan = planned(Call(lambda x: x + x.mT), [(1, 2, 12, 12)], [tiling])
    moved = [e for e in plan.exchanges[1] if e.kind == "halo"]
    assert sum(e.total[1] for e in moved) == 6 * 4 * 4 * 2 * 8  # all tiles off the diagonal


@pytest.mark.parametrize("tiles", [(2, 2), (1, 3)])
def test_gradients_of_a_turned_image(tiles):
    net = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), Call(lambda x: x * torch.rot90(x))).double()
    x, target = noise(1, 2, 8, 8), noise(1, 2, 8, 8, seed=2)
    for fused in (0, 100):
        check_training(net, x, target, [grid(*tiles)], fused=fused, steps=1)
