"""Operators that change the number of positions: adaptive pooling and pixel shuffle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..ir.axes import axes_in
from ..ir.node import Node
from ..ir.region import Region, Span
from ..ir.tiling import Tiling
from .base import Rule, Tensors, Weights
from .fallback import Whole
from .merged.reductions import Reduction, over_last
from .registry import rule
from .spatial import Spatial, places


@dataclass(frozen=True)
class AdaptivePool(Spatial):
    """Windows of nearly equal sizes that cover the operand.

    Position ``o`` of ``m`` reads ``[floor(o*n/m), ceil((o+1)*n/m))`` (torch.nn.AdaptiveAvgPool2d).

    Parameters
    ----------
    largest
        Whether the result is the largest number of a window, not the average.
    """

    largest: bool

    def window(self, number: int, position: int) -> Span:
        """The span of the operand that a position of the result reads."""
        n, m = self.sizes()[number], self.result_sizes()[number]
        return (position * n // m, -(-(position + 1) * n // m))

    def reads(self, number: int, span: Span) -> Span:
        return (self.window(number, span[0])[0], self.window(number, span[1] - 1)[1])

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        x = tensors[0]
        for number, span in enumerate(self.spans(region)):
            at = number - len(self.places)
            start = 0 if self.places[number] is None else self.reads(number, span)[0]
            windows = (self.window(number, position) for position in range(*span))
            pieces = (x.narrow(at, a - start, b - a) for a, b in windows)
            reduce = torch.amax if self.largest else torch.mean
            x = torch.cat([reduce(piece, at, keepdim=True) for piece in pieces], at)
        return x

    def lower(self, tiling: Tiling) -> Sequence[Node]:
        """Single windows over whole dimensions become a reduction: each tile computes its share."""
        sizes = list(zip(self.sizes(), self.result_sizes(), strict=True))
        if any(m not in (1, n) for n, m in sizes):
            return (self.node,)
        first = len(self.node.shape) - len(sizes)
        dims = tuple(first + k for k, (n, m) in enumerate(sizes) if m < n)
        kind = "amax" if self.largest else "mean"
        return Reduction(self.node, kind, dims, True).lower(tiling)


@rule("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "spnb.adaptive_max")
def adaptive(node: Node) -> Rule | None:
    """The rule of adaptive pooling: averages, or maxima without their indices."""
    largest = node.op.startswith("spnb")
    count = int(node.op[-2] if largest else node.kind[-2])
    where = places(node.operand_axes[0], count)
    if where is not None:
        return AdaptivePool(node, where, largest)
    if largest or any(n > 1 for n in node.shape[-count:]):
        return Whole(node)
    return over_last(node, "mean", count)  # of tokens


@dataclass(frozen=True)
class Shuffle(Spatial):
    """Moves channels to positions (torch.nn.PixelShuffle), or positions to channels.

    Parameters
    ----------
    factor
        Number of positions of the result for one of the operand; below 1 for PixelUnshuffle.
    """

    factor: int
    back: bool

    def reads(self, number: int, span: Span) -> Span:
        if self.back:
            return (span[0] * self.factor, span[1] * self.factor)
        return (span[0] // self.factor, -(-span[1] // self.factor))

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        result = super().apply(tensors, needs, region, weights)
        if self.back:
            return result
        held = [(a * self.factor, b * self.factor) for a, b in self.needed(region)]
        for number, ((start, _), (a, b)) in enumerate(zip(held, self.spans(region), strict=True)):
            result = result.narrow(number - len(held), a - start, b - a)
        return result


@rule("pixel_shuffle", "pixel_unshuffle")
def shuffle(node: Node) -> Rule | None:
    """The rule of pixel shuffle and unshuffle."""
    operand, back = node.operand_axes[0], node.kind == "pixel_unshuffle"
    where = places(operand, 2)
    if where is None or axes_in(operand.dims[-3]):
        return Whole(node)
    return Shuffle(node, where, node.args["downscale_factor" if back else "upscale_factor"], back)
