"""Norms and softmax over space."""

import pytest
import torch
from tiled import Call, check
from torch import nn
from torch.nn import functional as F

SIZES = {1: (2, 6, 19), 2: (2, 6, 9, 11), 3: (1, 6, 5, 6, 5)}
INSTANCE = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
BATCH = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


@pytest.mark.slow(but_each=2)
@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_group_norm(axes, groups):
    check(nn.GroupNorm(groups, 6), SIZES[axes])
    check(nn.GroupNorm(groups, 6, affine=False), SIZES[axes])


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("options", [{}, {"affine": True}, {"track_running_stats": True}])
def test_instance_norm(axes, options):
    check(INSTANCE[axes](6, **options), SIZES[axes])


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("options", [{}, {"affine": False}, {"track_running_stats": False}])
def test_batch_norm(axes, options):
    check(BATCH[axes](6, **options), SIZES[axes])


@pytest.mark.parametrize("shape", [[11], [9, 11], [6, 9, 11]])
@pytest.mark.parametrize("layer", [nn.LayerNorm, nn.RMSNorm])
def test_norm_over_the_last_dimensions(shape, layer):
    check(layer(shape), SIZES[2])


@pytest.mark.parametrize("layer", [nn.LayerNorm, nn.RMSNorm])
def test_norm_over_channels(layer):
    net = Call(lambda m, x: m[0](x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), layer(6))
    check(net, SIZES[2])


def test_norm_of_tokens():
    net = Call(lambda m, x: m[0](x.flatten(2)), nn.GroupNorm(2, 6))
    check(net, SIZES[2])


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("function", [F.softmax, F.log_softmax])
def test_softmax(dim, function):
    check(Call(lambda x: function(x, dim)), SIZES[2])


def test_softmax_of_what_is_masked():
    def net(x):
        return x.masked_fill(x < 0.5, -torch.inf).softmax(3).nan_to_num(0.0)

    check(Call(net), SIZES[2])
