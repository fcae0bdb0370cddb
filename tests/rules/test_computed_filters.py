"""Convolutions whose weights are an input, or are computed from the image."""

import pytest
import torch
from tiled import Call, check_tiled, noise
from torch import nn
from torch.nn import functional as F
from training_steps import check as check_gradients
from training_steps import grid

SHAPE = (2, 4, 9, 12)


def of_all_images(x):
    """A single filter, of the mean of all images."""
    return F.conv2d(x, x.mean((0, 2, 3)).view(1, 4, 1, 1), padding=1)


def of_each_image(x):
    """A depthwise filter for each image: its own 3×3 thumbnail."""
    weight = F.adaptive_avg_pool2d(x, 3).flatten(0, 1)[:, None]
    return F.conv2d(x.flatten(0, 1)[None], weight, padding=1, groups=len(weight)).view(x.shape)


def experts(layers, x):
    """Conditionally parameterized convolution: each image mixes the filters of experts."""
    batch, channels, *space = x.shape
    mixture = layers[0](x.mean((2, 3))).sigmoid()
    weight = (mixture @ layers[1].weight.view(3, -1)).view(batch * 6, channels, 3, 3)
    bias = (mixture @ layers[2].weight.view(3, -1)).flatten()
    y = F.conv2d(x.reshape(1, batch * channels, *space), weight, bias, 2, 1, groups=batch)
    return y.view(batch, 6, *y.shape[2:])


def involution(layers, x):
    """A filter for each position, which all channels of a group share."""
    batch, channels, height, width = x.shape
    weight = layers[0](x).view(batch, 2, 1, 9, height, width)
    columns = F.unfold(x, 3, padding=1).view(batch, 2, channels // 2, 9, height, width)
    return (weight * columns).sum(3).view(x.shape)


def transposed(x):
    weight = x.mean((0, 2, 3)).view(4, 1, 1, 1).expand(4, 2, 2, 2)
    return F.conv_transpose2d(x, weight, stride=2)


def kernel_of_each_image(x):
    """A filter of `of_each_image`, in its own spatial size."""
    weight = x.mean((2, 3)).view(8, 1, 1, 1)
    return F.conv2d(x.view(1, 8, 9, 12), weight, groups=8).view(x.shape)


NETS = {
    "of_all_images": lambda: Call(of_all_images),
    "of_each_image": lambda: Call(of_each_image),
    "kernel_of_each_image": lambda: Call(kernel_of_each_image),
    "experts": lambda: Call(
        experts,
        nn.Linear(4, 3),
        nn.Conv2d(4, 18, 3, bias=False),
        nn.Conv2d(1, 18, 1, bias=False),
    ),
    "involution": lambda: Call(involution, nn.Conv2d(4, 18, 1)),
    "transposed": lambda: Call(transposed),
}


@pytest.mark.parametrize("name", NETS)
def test_a_computed_filter_is_held_whole_by_each_tile(name):
    plans = check_tiled(NETS[name](), SHAPE, grids=[(2, 3), (1, 4)])
    assert not any(plan.gathered for plan in plans)


@pytest.mark.parametrize("name", ["of_each_image", "experts", "involution"])
def test_each_image_has_its_own_filter_in_micro_batches(name):
    check_tiled(NETS[name](), (4, 4, 9, 12), grids=[(2, 2)], parts=2)


def test_a_filter_of_a_volume():
    def dynamic(x):
        weight = x.mean((2, 3, 4)).view(4, 1, 1, 1, 1).expand(4, 1, 3, 3, 3)
        return F.conv3d(x.flatten(0, 1)[None], weight, padding=1, groups=4).view(x.shape)

    plans = check_tiled(Call(dynamic), (2, 2, 5, 6, 7), grids=[(2, 1, 2)])
    assert not any(plan.gathered for plan in plans)


def test_a_filter_that_is_an_input():
    net = Call(lambda layers, x, template: F.conv2d(layers[0](x), layers[0](template)), conv())
    plans = check_tiled(net, (1, 4, 12, 14), (1, 4, 5, 3), grids=[(2, 2), (1, 3)])
    assert not any(plan.gathered for plan in plans)


def test_a_template_for_each_image():
    def searched(layers, x, template):
        x, template = layers[0](x), layers[0](template)
        y = F.conv2d(x.flatten(0, 1)[None], template.flatten(0, 1)[:, None], groups=8)
        return y.view(2, 4, *y.shape[2:])

    net = Call(searched, conv())
    plans = check_tiled(net, (2, 4, 12, 14), (2, 4, 5, 3), grids=[(2, 2)])
    assert not any(plan.gathered for plan in plans)


def conv():
    return nn.Conv2d(4, 4, 3, padding=1)


@pytest.mark.parametrize("name", ["of_each_image", "experts", "involution"])
def test_gradients_of_computed_filters(name):
    torch.manual_seed(0)
    net, x = NETS[name]().double(), noise(*SHAPE)
    if name == "of_each_image":
        net = Call(lambda m, x: of_each_image(m[0](x)), conv()).double()
    with torch.no_grad():
        like = net(x)
    check_gradients(net, x, noise(*like.shape, seed=2), [grid(2, 2)])
