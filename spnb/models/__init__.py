"""Built-in networks by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from .amoebanet import amoebanet_d
from .resnet import imagenet_resnet, resnet_v1, resnet_v2
from .unet import UNet
from .workloads import convolutions, first_groups

__all__ = ["build", "names"]


class _Family(NamedTuple):
    name: str  # "<D>" stands for a number, which `make` is given
    text: str
    make: Callable[..., nn.Module]  # called with all options and the depth; takes what it needs


_FAMILIES = (
    _Family(
        "resnet",
        "ResNet v2 of depth 110, as in the MPI4DL benchmarks",
        lambda num_classes, **_: resnet_v2(110, num_classes),
    ),
    _Family(
        "resnet<D>_v1",
        "CIFAR ResNet of basic blocks, depth D = 6n+2, as resnet20_v1",
        lambda depth, num_classes, **_: resnet_v1(depth, num_classes),
    ),
    _Family(
        "resnet<D>_v2",
        "preactivated ResNet of bottlenecks, depth D = 9n+2, as resnet29_v2",
        lambda depth, num_classes, **_: resnet_v2(depth, num_classes),
    ),
    _Family(
        "resnet50",
        "ImageNet ResNet, weights named as torchvision's",
        lambda num_classes, **_: imagenet_resnet((3, 4, 6, 3), num_classes),
    ),
    _Family(
        "resnet101",
        "ImageNet ResNet, weights named as torchvision's",
        lambda num_classes, **_: imagenet_resnet((3, 4, 23, 3), num_classes),
    ),
    _Family(
        "unet",
        "U-Net of four resolutions: a logit for every class at every pixel",
        lambda num_classes, **_: UNet(num_classes),
    ),
    _Family("amoebanet", "AmoebaNet-D of any number of layers and filters", amoebanet_d),
    _Family(
        "w1",
        "nine 3×3 convolutions of 64 channels: a workload bound by arithmetic",
        lambda **_: convolutions(),
    ),
    _Family(
        "w2",
        "the part of ResNet-29 v2 at full size: a workload bound by memory traffic",
        lambda **_: first_groups(29, 1),
    ),
    _Family(
        "w3",
        "ResNet-110 v2 down to half size, the part that is tiled: a workload of many layers",
        lambda **_: first_groups(110, 2),
    ),
)


def names() -> list[tuple[str, str]]:
    """Names that `build` takes, ``<D>`` standing for a number, and what each builds.

    >>> [name for name, text in names()]          # doctest: +NORMALIZE_WHITESPACE
    ['resnet', 'resnet<D>_v1', 'resnet<D>_v2', 'resnet50', 'resnet101', 'unet', 'amoebanet', 'w1',
     'w2', 'w3']
    """
    return [(family.name, family.text) for family in _FAMILIES]


def build(
    name: str, *, num_classes: int = 10, num_layers: int = 18, num_filters: int = 416
) -> nn.Module:
    """Build a network with random weights, drawn from torch's generator.

    Parameters
    ----------
    name
        One of `names`, with a number for ``<D>``.
    num_classes
        Length of the logits that it returns for an image.
    num_layers, num_filters
        Size of an AmoebaNet; the other networks have none to choose.

    Raises
    ------
    ValueError
        If there is no such name, or the network cannot have the size.

    Examples
    --------
    >>> network = build("resnet20_v1", num_classes=4)
    >>> sum(parameter.numel() for parameter in network.parameters())
    272676
    """
    options = {"num_classes": num_classes, "num_layers": num_layers, "num_filters": num_filters}
    for family in _FAMILIES:
        pattern = family.name.replace("<D>", r"(?P<depth>\d+)")
        if found := re.fullmatch(pattern, name):
            depth = {key: int(number) for key, number in found.groupdict().items()}
            return family.make(**options, **depth)
    known = ", ".join(family.name for family in _FAMILIES)
    raise ValueError(f"unknown model {name!r}; there are {known}")
