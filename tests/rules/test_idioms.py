"""Parts of networks as people write them, of several operators each: none gathers a value."""

import pytest
import torch
from tiled import Call, check_tiled
from torch import nn
from torch.nn import functional as F

SHAPE = (2, 4, 8, 12)


def conv(inputs=4, outputs=4, kernel=3):
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)


def both_images_at_once(layers, x):
    """A siamese network: both images are one batch."""
    one, other = layers[0](torch.cat([x, x.flip(3)])).chunk(2)
    return (one - other).abs()


def box_filter(x, radius=2):
    """Means of windows by differences of cumulative sums, smaller at the border."""
    for d in (2, 3):
        total, n, wide = x.cumsum(d), x.shape[d], 2 * radius + 1
        first = total.narrow(d, radius, radius + 1)
        middle = total.narrow(d, wide, n - wide) - total.narrow(d, 0, n - wide)
        last = total.narrow(d, n - 1, 1) - total.narrow(d, n - wide, radius)
        x = torch.cat([first, middle, last], d)
    return x


def keypoints(x):
    largest, place = x.flatten(2).max(2)
    return largest, place % 12, place // 12


def modulated(layers, x):
    """A convolution of StyleGAN 2: a style of the image scales its weights."""
    style = layers[0](x.mean((2, 3)))
    weight = layers[1].weight[None] * style[:, None, :, None, None]
    weight = weight * (weight.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    y = F.conv2d(x.reshape(1, 8, 8, 12), weight.reshape(8, 4, 3, 3), padding=1, groups=2)
    return y.view(x.shape)


def reassembled(layers, x):
    """Upsampling by CARAFE: each position weighs its neighbours."""
    weights = F.pixel_shuffle(layers[0](x), 2).softmax(1)
    windows = F.unfold(x, 3, padding=1).view(2, 36, 8, 12)
    windows = F.interpolate(windows, scale_factor=2).view(2, 4, 9, 16, 24)
    return (windows * weights[:, None]).sum(2)


def linear_attention(layers, x):
    """Attention of EfficientViT: sums over positions, with their number in a channel of ones."""
    query, key, value = layers[0](x).flatten(2).chunk(3, 1)
    value = F.pad(value, (0, 0, 0, 1), value=1.0)
    result = value @ key.relu().mT @ query.relu()
    return (result[:, :-1] / (result[:, -1:] + 1e-5)).view(x.shape)


def cost_volume(x):
    other = F.pad(x, (4, 0))
    shifted = (other[..., 4 - d : 16 - d] for d in range(5))
    return torch.cat([(x * each).mean(1, keepdim=True) for each in shifted], 1)


def hue_and_saturation(x):
    largest, channel = (x := x[:, :3].sigmoid()).max(1)
    spread = largest - x.min(1)[0] + 1e-8
    red, green, blue = (largest[:, None] - x).unbind(1)
    hues = [blue - green, red - blue + 2 * spread, green - red + 4 * spread]
    hue = torch.stack(hues, 1).gather(1, channel[:, None])[:, 0]
    return torch.stack([hue / spread / 6 % 1, spread / largest, largest], 1)


IDIOMS = {
    "both_images_at_once": (both_images_at_once, [conv()]),
    "box_filter": (box_filter, []),
    "keypoints": (keypoints, []),
    "modulated": (modulated, [nn.Linear(4, 4), nn.Conv2d(4, 4, 3, bias=False)]),
    "reassembled": (reassembled, [conv(4, 36)]),
    "linear_attention": (linear_attention, [conv(4, 12, 1)]),
    "cost_volume": (cost_volume, []),
    "hue_and_saturation": (hue_and_saturation, []),
}


@pytest.mark.parametrize("name", IDIOMS)
def test_an_idiom_is_tiled(name):
    function, layers = IDIOMS[name]
    plans = check_tiled(Call(function, *layers), SHAPE, grids=[(2, 3), (1, 4)])
    assert not any(plan.gathered for plan in plans)
