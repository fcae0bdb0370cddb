"""Built-in networks by name.

May import nothing of spnb but `spnb.errors`.  Begin with `names` below; `factories` says which
function of which module builds each network.  PyTorch is imported only when a network is built.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

__all__ = ["build", "checked_name", "names"]

NAMES = {
    "resnet": "ResNet v2 of depth 110, as in the MPI4DL benchmarks",
    "resnet<D>_v1": "CIFAR ResNet of basic blocks, depth D = 6n+2, as resnet20_v1",
    "resnet<D>_v2": "preactivated ResNet of bottlenecks, depth D = 9n+2, as resnet29_v2",
    "resnet50": "ImageNet ResNet, weights named as torchvision's",
    "resnet101": "ImageNet ResNet, weights named as torchvision's",
    "unet": "U-Net of four resolutions: a logit for every class at every pixel",
    "amoebanet": "AmoebaNet-D of any number of layers and filters",
    "w1": "nine 3×3 convolutions of 64 channels: a workload bound by arithmetic",
    "w2": "the blocks of ResNet-29 v2 at full size: a workload bound by memory traffic",
    "w3": "the blocks of ResNet-110 v2 at full and half size: a workload of many layers",
}
"""Name and description of each network; ``<D>`` stands for its depth, a number."""


def names() -> list[tuple[str, str]]:
    """Return the name and the description of each network that `build` takes.

    ``<D>`` in a name stands for a number, the network's depth.

    >>> [name for name, text in names()]          # doctest: +NORMALIZE_WHITESPACE
    ['resnet', 'resnet<D>_v1', 'resnet<D>_v2', 'resnet50', 'resnet101', 'unet', 'amoebanet', 'w1',
     'w2', 'w3']
    """
    return list(NAMES.items())


def checked_name(name: str) -> tuple[str, dict[str, int]]:
    """Return the entry of `NAMES` that a name stands for, and the depth in the name.

    Raises
    ------
    ValueError
        If there is no such name.

    Examples
    --------
    >>> checked_name("resnet20_v1"), checked_name("unet")
    (('resnet<D>_v1', {'depth': 20}), ('unet', {}))
    """
    for known in NAMES:
        if found := re.fullmatch(known.replace("<D>", r"(?P<depth>\d+)"), name):
            return known, {key: int(number) for key, number in found.groupdict().items()}
    raise ValueError(f"unknown model {name!r}; there are {', '.join(NAMES)}")


def build(
    name: str, *, num_classes: int = 10, num_layers: int = 18, num_filters: int = 416
) -> nn.Module:
    """Build a network with random weights, drawn from torch's generator.

    Parameters
    ----------
    name
        One of `names`, with a number in place of ``<D>``.
    num_classes
        Number of logits for an image; in a U-Net, for each pixel.
    num_layers, num_filters
        Size of an AmoebaNet; other networks ignore them.

    Returns
    -------
    torch.nn.Module
        The network, in training mode.

    Raises
    ------
    ValueError
        If there is no such name, or the network cannot have this depth or size.

    Examples
    --------
    >>> network = build("resnet20_v1", num_classes=4)
    >>> sum(parameter.numel() for parameter in network.parameters())
    272676
    """
    from .factories import FACTORIES

    known, depth = checked_name(name)
    options = {"num_classes": num_classes, "num_layers": num_layers, "num_filters": num_filters}
    return FACTORIES[known](**options, **depth)
