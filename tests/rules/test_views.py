"""Views, permutations, copies."""

import pytest
import torch
from tiled import Call, check, check_regions
from torch import nn
from windows import image, windows

from spnb.errors import PlanError
from spnb.ir.axes import Axes
from spnb.rules.views import reshaped

IMAGE = (2, 6, 8, 12)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.permute(0, 2, 3, 1),
        lambda x: x.transpose(2, 3),
        lambda x: x.flatten(2).transpose(1, 2),
        lambda x: x.flatten(2).view(2, 3, 2, 8, 12),
        lambda x: x.unflatten(1, (2, 3)).transpose(1, 2).flatten(1, 2),
        lambda x: x.view(2, 6, 4, 2, 3, 4).permute(0, 1, 3, 5, 2, 4).flatten(1, 3),
        lambda x: x.view(2, 6, 4, 2, 3, 4).permute(0, 1, 3, 5, 2, 4).reshape(2, 48, 4, 3) + 1,
        lambda x: windows(x.permute(0, 2, 3, 1)),
        lambda x: image(windows(x.permute(0, 2, 3, 1)).softmax(1), (2, 8, 12, 6)),
        lambda x: x.mean(2, keepdim=True).squeeze(2).unsqueeze(1),
        lambda x: x.view(2 * 6, 8, 12).mean(2).view(2, 6, 8),
        lambda x: x.view(2, 2, 3, 2, 2, 8, 12)[:, :, 0] if x.shape[1] == 24 else x.relu(),
        lambda x: x.movedim(1, -1).contiguous().view(2, -1, 6),
        lambda x: x.view(torch.int64),
        lambda x: (x.view(torch.int64) & -1024).view(torch.float64),
    ],
)
def test_views(function):
    check(Call(function), IMAGE)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * x.mean((2, 3), keepdim=True).expand_as(x),
        lambda x: x * x.mean((2, 3))[:, :, None, None],
        lambda x: x[:, :1].expand(-1, 5, -1, -1),
        lambda x: x[:, :1].repeat(1, 3, 1, 1),
        lambda x: x.repeat(1, 2, 1, 1),
        lambda x: x.mean(3, keepdim=True).repeat(1, 1, 1, 7),
        lambda x: x.mean(2).unsqueeze(2).expand(2, 6, 5, 12),
        lambda x: x + torch.linspace(0, 1, 8, dtype=x.dtype)[:, None].expand(8, 12),
        lambda x: x + x.new_zeros(8, 1) + x.new_full((12,), 2.0) + torch.ones_like(x),
    ],
)
def test_copies(function):
    check(Call(function), IMAGE)


def test_a_view_in_a_type_of_another_size_is_refused():
    with pytest.raises(PlanError, match="no tiling rule for the operator view, used like this"):
        check(Call(lambda x: x.view(torch.int32)), IMAGE)


def test_a_reshape_that_takes_rows_apart_is_gathered():
    net = Call(lambda m, x: m[0](x.reshape(2, 6, 12, 8)), nn.Conv2d(6, 2, 1))
    check_regions(net, IMAGE)
    plans = check(net, IMAGE, allow_gather=True)
    assert all(plan.gathered for plan in plans)


def test_an_empty_tensor_has_no_factors():
    assert reshaped(Axes.image((1, 6, 8, 12)).with_dims([(), (), (), ()]), (1, 1)) is not None
    assert reshaped(Axes.image((1, 0, 8, 12)), (1, 8, 0)) is None


def test_factors_are_handed_out_in_order():
    axes = Axes.image((2, 6, 56, 84))
    assert str(reshaped(axes, (2, 6, 8, 7, 12, 7))) == (
        "Axes(batch 2 | 6 | axis1 8 | 7 | axis2 12 | 7)"
    )
    assert str(reshaped(axes, (12, 56 * 84))) == "Axes(batch 12 | axis1 56·axis2 84)"
    assert reshaped(axes, (2, 6, 84, 56)) is None
    assert reshaped(reshaped(axes, (2, 6, 56 * 84)), axes.shape) == axes
