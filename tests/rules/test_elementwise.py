"""Every element for itself, and along channels."""

import pytest
import torch
from tiled import Call, check, check_tiled
from torch import nn
from torch.nn import functional as F

from spnb.errors import PlanError

IMAGE = (2, 6, 9, 11)


@pytest.mark.parametrize(
    "layer",
    [
        nn.GELU(),
        nn.PReLU(6),
        nn.Softmax(dim=1),
        nn.LogSoftmax(dim=-3),
        nn.Dropout(0.5),
        nn.Hardswish(),
        nn.Identity(),
        nn.GLU(dim=1),
        nn.ChannelShuffle(3),
        nn.RReLU(),
        nn.Softplus(),
        nn.Mish(inplace=True),
    ],
    ids=str,
)
def test_layers(layer):
    check(layer, IMAGE)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.where(x > 0, x, x[:, :1]),
        lambda x: x.clamp(-0.5, 0.5).pow(2).add(1).rsqrt(),
        lambda x: x + x.mean(1, keepdim=True),
        lambda x: torch.maximum(x, x[..., :1]),
        lambda x: x.cumsum(1),
        lambda x: x.sort(1)[0],
        lambda x: x.topk(3, dim=1)[0],
        lambda x: x.topk(3, dim=1)[1],
        lambda x: x.masked_fill(x.isnan() | (x < 0), 2.0),
        lambda x: (x > 0).to(torch.uint8),
        lambda x: ((x > 0) & (x < 1)) ^ (x > 2),
    ],
)
def test_functions(function):
    check(Call(function), IMAGE)


def test_a_weight_with_space_of_its_own_is_cut_with_the_tile():
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(torch.randn(6, *IMAGE[2:]))
            self.row = nn.Parameter(torch.randn(11))

        def forward(self, x):
            return x * self.table + self.row

    check(Positions(), IMAGE)


def test_several_inputs():
    check(Call(lambda x, y, z: x * y + z[:, :, None, None]), IMAGE, (2, 1, 9, 11), (2, 6))
    check(Call(lambda x, y: [x.relu(), (y * 2).mean((2, 3)), x]), IMAGE, (2, 3, 5, 4))


def test_what_is_of_channels_where_an_axis_of_the_image_is_in_their_place():
    shuffled = Call(lambda x: F.channel_shuffle(x.transpose(1, 2), 2))
    sloped = Call(lambda layers, x: layers[0](x.transpose(1, 2)), nn.PReLU(10))
    for net in (shuffled, sloped):
        with pytest.raises(PlanError, match="used like this, needs the whole extent 10×11"):
            check_tiled(net, (2, 4, 10, 11))
        check_tiled(net, (2, 4, 10, 11), allow_gather=True)
