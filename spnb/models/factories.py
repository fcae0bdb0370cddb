"""The functions that build the networks of `spnb.models.NAMES`."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from .amoebanet import amoebanet_d
from .resnet import imagenet_resnet, resnet_v1, resnet_v2
from .unet import UNet
from .workloads import convolutions, first_groups

FACTORIES: dict[str, Callable[..., nn.Module]] = {
    "resnet": lambda num_classes, **_: resnet_v2(110, num_classes),
    "resnet<D>_v1": lambda depth, num_classes, **_: resnet_v1(depth, num_classes),
    "resnet<D>_v2": lambda depth, num_classes, **_: resnet_v2(depth, num_classes),
    "resnet50": lambda num_classes, **_: imagenet_resnet((3, 4, 6, 3), num_classes),
    "resnet101": lambda num_classes, **_: imagenet_resnet((3, 4, 23, 3), num_classes),
    "unet": lambda num_classes, **_: UNet(num_classes),
    "amoebanet": amoebanet_d,
    "w1": lambda **_: convolutions(),
    "w2": lambda **_: first_groups(29, 1),
    "w3": lambda **_: first_groups(110, 2),
}
"""A function for each name; it is called with every option and the depth, and ignores some."""
