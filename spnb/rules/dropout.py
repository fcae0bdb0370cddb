"""Dropout in training: the mask depends on positions, not on the rank that computes them.

PyTorch's generator gives numbers one after another, and tiles would ask for them in another order
than the untiled network.  Here each number is a hash of its position in the batch, of the layer and
of the step, so a tile computes its own part of the mask of the whole batch (counter-based random
numbers: Salmon et al., *Parallel random numbers: as easy as 1, 2, 3*, 2011; the hash is Steele,
Lea and Flood's SplitMix64, 2014).
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
"""Operators whose mask comes from a seed."""

_here = threading.local()


@contextmanager
def noise(seed: int, first_image: int, batch: int) -> Iterator[None]:
    """Set, for this thread, the seed of dropout and the place of the micro-batch in its batch.

    Parameters
    ----------
    seed
        A number that differs from step to step.
    first_image
        Number of the micro-batch's first image in the batch.
    batch
        Number of images of the whole batch.
    """
    before = getattr(_here, "noise", (0, 0, 1))
    _here.noise = (seed, first_image, batch)
    try:
        yield
    finally:
        _here.noise = before


@dataclass(frozen=True)
class PieceOf:
    """Where a piece lies in a value that is held in pieces (see `spnb.planner.pieces`).

    Attributes
    ----------
    dimension
        The dimension along which it is in pieces.
    start, size
        The piece's first position in this dimension, and the size of the whole.
    """

    dimension: int
    start: int
    size: int


def dropout_mask(
    layer: str,
    share: float,
    axes: Axes,
    region: Region,
    features: bool,
    piece: PieceOf | None = None,
) -> torch.Tensor:
    """The part of a dropout's mask that covers a region: True for elements that stay.

    Parameters
    ----------
    layer
        Name of the value; each has a mask of its own.
    share
        Probability that an element is dropped.
    axes
        Axes of the value.
    region
        The region of the value.
    features
        Whether whole channels are dropped, not elements.
    piece
        The value of which this one is a piece; None if it is no piece.
    """
    seed, first_image, batch = getattr(_here, "noise", (0, 0, 1))
    images = axes.extent[0]
    later = 0 if images % batch else first_image * (images // batch)
    index = np.zeros((), np.uint64)
    for number, factors in enumerate(axes.dims):
        within, total = np.zeros((), np.uint64), 1
        for factor in factors:
            start, stop = (0, factor.size) if factor.axis is None else region.spans[factor.axis]
            moved, size = later if factor.axis == 0 else 0, factor.size
            along = np.arange(start + moved, stop + moved, dtype=np.uint64)
            if features and factor.axis:  # all positions of a channel have the same number
                along, size = np.zeros_like(along), 1
            within, total = within[..., None] * np.uint64(size) + along, total * size
        if piece is not None and number == piece.dimension:
            within, total = within + np.uint64(piece.start), piece.size
        index = index[(..., *[None] * within.ndim)] * np.uint64(total) + within
    key = zlib.crc32(f"{layer} {seed}".encode()) << 32 | zlib.crc32(f"{seed} {layer}".encode())
    bits = mixed(index + np.uint64(key)) >> np.uint64(40)  # 24 bits are left
    return torch.from_numpy(bits >= int(share * (1 << 24))).reshape(axes.local_shape(region))


@dataclass(frozen=True)
class Dropout(Rule):
    """Dropped elements or channels become zero; all others are scaled by 1 / (1 - p)."""

    any_layout = True

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        args = self.node.args
        share, features = args["p"], "feature" in self.node.kind
        layer, piece = args.get("layer", self.node.name), args.get("piece")
        mask = dropout_mask(layer, share, self.axes, region, features, piece)
        scale = 0.0 if share >= 1 else 1 / (1 - share)
        return tensors[0] * (mask.to(tensors[0].device, self.node.dtype) * scale)


@rule(*DROPOUTS)
def dropout(node: Node) -> Rule | None:
    """The rule of dropout; in evaluation it drops nothing."""
    return Dropout(node) if node.args["train"] else Rule(node)


@rule("spnb.dropout_of_piece")
def dropout_of_piece(node: Node) -> Rule:
    """The rule of dropout in training of a piece: its part of the mask of the whole value."""
    return Dropout(node)


@rule("rrelu", "alpha_dropout", "feature_alpha_dropout")
def no_noise(node: Node) -> Rule | None:
    """The rule of operators that are random in training, and elementwise in evaluation."""
    random = node.args.get("train") or node.args.get("training")
    return None if random else Rule(node)
