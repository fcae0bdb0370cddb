"""Networks for measurements: one bound by arithmetic, one by memory traffic, one with many layers.

Their result has space, so all of each network can be tiled.
"""

from __future__ import annotations

from torch import nn

from .resnet import conv, resnet_v2


def convolutions(count: int = 8, channels: int = 64) -> nn.Sequential:
    """A 3×3 convolution to 64 channels, then eight with norm and ReLU: bound by arithmetic.

    >>> sum(isinstance(layer, nn.Conv2d) for layer in convolutions().modules())
    9
    """
    gain = 2**-0.5  # no ReLU follows the first convolution
    layers: list[nn.Module] = [conv(3, channels, 3, bias=True, gain=gain)]
    for _ in range(count):
        layers += [conv(channels, channels, 3, bias=True), nn.BatchNorm2d(channels), nn.ReLU()]
    return nn.Sequential(*layers)


def first_groups(depth: int, groups: int) -> nn.Sequential:
    """The stem of a ResNet v2 and its first groups of blocks; group 1 has 64 channels, group 2 128.

    The first group has few channels at full size, so it is bound by memory traffic.

    >>> len(first_groups(29, groups=1))                     # stem, norm, ReLU, three blocks
    6
    """
    stem, each = 3, (depth - 2) // 9
    layers = list(resnet_v2(depth, num_classes=10).children())
    return nn.Sequential(*layers[: stem + groups * each])
