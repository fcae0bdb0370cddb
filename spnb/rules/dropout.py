"""Dropout in training: what is dropped depends on where it lies, not on who computes it.

A generator hands out numbers in the order in which it is asked, and tiles would ask in another than
the untiled network.  Here each number is a hash of its position in the batch, of the layer and of
the step, so any tile makes its own part of the one mask (counter-based random numbers: Salmon et
al., *Parallel random numbers: as easy as 1, 2, 3*, 2011; the hash is Steele, Lea and Flood's
SplitMix64, 2014).
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..ir.axes import Axes
from ..ir.node import Node
from ..ir.region import Region
from ..kernels.counter_rng import mixed
from .base import Rule, Tensors, Weights
from .registry import rule

DROPOUTS = ("dropout", "feature_dropout")
"""Operators that drop what a seed says."""

_here = threading.local()


@contextmanager
def noise(seed: int, first_image: int, batch: int) -> Iterator[None]:
    """Let networks drop what the seed says, in a micro-batch that begins at an image of a batch.

    Parameters
    ----------
    seed
        Another one for each step.
    first_image
        Of the micro-batch.
    batch
        Images of the whole batch.
    """
    before = getattr(_here, "noise", (0, 0, 1))
    _here.noise = (seed, first_image, batch)
    try:
        yield
    finally:
        _here.noise = before


def kept(layer: str, share: float, axes: Axes, region: Region, features: bool) -> torch.Tensor:
    """Which elements of a region of a value a dropout keeps, as ones and zeros.

    Parameters
    ----------
    layer
        Name of the value; another mask for each.
    share
        Probability to be dropped.
    features
        Whether whole channels are dropped, not elements.
    """
    seed, first_image, batch = getattr(_here, "noise", (0, 0, 1))
    images = axes.extent[0]
    later = 0 if images % batch else first_image * (images // batch)
    index = np.zeros((), np.uint64)
    for factor in (factor for factors in axes.dims for factor in factors):
        start, stop = (0, factor.size) if factor.axis is None else region.spans[factor.axis]
        moved, size = later if factor.axis == 0 else 0, factor.size
        along = np.arange(start + moved, stop + moved, dtype=np.uint64)
        if features and factor.axis:  # positions of space have one number
            along, size = np.zeros_like(along), 1
        index = index[..., None] * np.uint64(size) + along
    key = zlib.crc32(f"{layer} {seed}".encode()) << 32 | zlib.crc32(f"{seed} {layer}".encode())
    bits = mixed(index + np.uint64(key)) >> np.uint64(40)  # 24 of them
    return torch.from_numpy(bits >= int(share * (1 << 24))).reshape(axes.local_shape(region))


@dataclass(frozen=True)
class Dropout(Rule):
    """Dropped elements or channels become zero; all others are scaled by 1 / (1 - p)."""

    any_layout = True

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        share, features = self.node.args["p"], "feature" in self.node.kind
        mask = kept(self.node.name, share, self.axes, region, features).to(tensors[0].device)
        scale = 0.0 if share >= 1 else 1 / (1 - share)
        return tensors[0] * (mask.to(self.node.dtype) * scale)


@rule(*DROPOUTS)
def dropout(node: Node) -> Rule | None:
    """Nothing in evaluation."""
    return Dropout(node) if node.args["train"] else Rule(node)


@rule("rrelu", "alpha_dropout", "feature_alpha_dropout")
def no_noise(node: Node) -> Rule | None:
    """What is random in training, and elementwise in evaluation."""
    random = node.args.get("train") or node.args.get("training")
    return None if random else Rule(node)
