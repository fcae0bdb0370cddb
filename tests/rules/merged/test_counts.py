"""Histograms: the counts of all tiles are added."""

import pytest
import torch
from tiled import Call, check_tiled
from torch.nn import functional as F

from spnb.errors import CaptureError, PlanError

HISTOGRAMS = {
    "between_ends": lambda x: torch.histc(x, 10, -2, 2),
    "of_all_numbers": lambda x: torch.histc(x, 10) + torch.histogram(x, 10)[0],
    "of_one_number": lambda x: torch.histc(x * 0 + 3, 7),
    "with_edges": lambda x: torch.histogram(x, 6, range=(-1.0, 2.0)),
    "used": lambda x: x * torch.histc(x, 4, -2, 2).view(4, 1, 1) / x.numel(),
    "of_each_channel": lambda x: torch.stack([torch.histc(x[:, k], 5, -1, 1) for k in range(2)]),
    "of_classes": lambda x: F.one_hot((x > 0).long().flatten(), 3).sum(0),
}


@pytest.mark.slow(but_each=2)
@pytest.mark.parametrize("name", HISTOGRAMS)
def test_counts_of_tiles_are_added(name):
    for plan in check_tiled(Call(HISTOGRAMS[name]), (2, 4, 8, 11), grids=[(2, 2), (1, 3)]):
        assert not plan.gathered


def test_a_constant_is_counted_once():
    def net(x):
        return x + torch.histogram(torch.ones(4, dtype=x.dtype), 3, range=(0.0, 2.0))[0].sum()

    check_tiled(Call(net), (1, 2, 4, 4), grids=[(2, 2)])


def test_counts_of_all_images_need_all_images():
    with pytest.raises(PlanError, match=r"not known that histc.* treats the 2 images"):
        check_tiled(Call(HISTOGRAMS["between_ends"]), (2, 2, 4, 4), grids=[(2, 2)], parts=2)


def test_a_count_of_unknown_size_is_refused_with_a_way_out():
    net = Call(lambda x: torch.bincount((x > 0).long().flatten(), minlength=3))
    with pytest.raises(CaptureError, match=r"bincount.* use .*one_hot\(x, n\).sum\(0\)"):
        check_tiled(net, (1, 2, 4, 4), grids=[(2, 2)])
