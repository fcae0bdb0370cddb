"""The k largest or smallest of all positions: each tile's own, and then the largest of these.

Figures of a tile are k pairs of a number and its place in the whole image::

    x          3 9 1 │ 7 8 2      k = 2
    partial    9 (1), 3 (0) │ 8 (4), 7 (3)
    combined   9 (1), 8 (4)

A tile with fewer than k positions fills up with pairs without a place.  Which of several equal
numbers are taken, PyTorch does not say, so it may differ from the untiled run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F

from ...ir.axes import Axes, Factor, dim
from ...ir.node import Node, Ref
from ...ir.region import Region
from ...ir.tiling import Tiling
from ..base import Direct, Rule, Tensors, Weights
from ..elementwise import along_one
from ..fallback import AlongDimensions
from ..positions import numbers_of
from ..registry import rule
from .merging import Combined, Partial, combined, cut_axes, of_each_tile

EXACT = torch.float64
"""The type of figures: it holds every place, and every number of a smaller floating type."""


@dataclass(frozen=True)
class Largest(AlongDimensions):
    """The k largest (smallest) along a dimension that tiles may cut (torch.topk)."""

    def lower(self, tiling: Tiling) -> Sequence[Node]:
        """Each tile finds its own k largest; these are merged along one axis after another."""
        node, axes, (number,) = self.node, self.node.operand_axes[0], self.numbers
        cut = cut_axes(axes, [number], tiling)
        if not cut or not node.args["sorted"] or not node.dtype.is_floating_point:
            return (node,)
        k, largest = node.args["k"], node.args["largest"]
        op = "spnb.partial_largest.topk"
        args = {"self": Ref(node.operands[0]), "k": k, "largest": largest}
        pairs = replace(node, op=op, args=args, dtype=EXACT, operand_axes=(axes,), parts=())
        first = of_each_tile(pairs, PartialLargest, [number], tiling)
        which = "largest" if largest else "smallest"
        merged = combined(node, first, cut, which, operator="spnb.combined_largest")
        args = {"self": Ref(merged[-1].name), "dim": number}
        op, operands = "spnb.finish_largest.topk", (merged[-1].axes,)
        return [first, *merged, replace(node, op=op, args=args, operand_axes=operands)]


@rule("topk")
def largest(node: Node) -> Rule | None:
    """The rule of the k largest along a dimension."""
    found = along_one(node)
    if not isinstance(found, AlongDimensions):
        return found
    (number,) = found.numbers
    dims = list(found.axes.dims)
    dims[number] = dim(node.args["k"])  # no positions, even if all of them are taken
    return Largest(node, found.axes.with_dims(dims), found.numbers)


@dataclass(frozen=True)
class PartialLargest(Partial):
    """The k largest of each tile, and their places."""

    @cached_property
    def axes(self) -> Axes:
        return self.of_parts.with_dims(
            [*self.of_parts.dims, (Factor(self.node.args["k"]),), dim(2)]
        )

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        (number,), k, largest = (self.node.args[name] for name in ("dims", "k", "largest"))
        x = tensors[0].movedim(number, -1)
        numbers, at = x.topk(min(k, x.shape[-1]), -1, largest)
        held = needs[0] & Region.whole(self.node.operand_axes[0].extent)
        places = numbers_of(self.node.operand_axes[0].dims[number], held).to(at.device)[at]
        few, nothing = (0, k - at.shape[-1]), -math.inf if largest else math.inf
        found = [
            F.pad(numbers.to(EXACT), few, value=nothing),
            F.pad(places.to(EXACT), few, value=math.inf),
        ]
        return torch.stack(found, -1).unsqueeze(number).reshape(self.axes.local_shape(region))


rule("spnb.partial_largest")(PartialLargest)


@dataclass(frozen=True)
class CombinedLargest(Combined):
    """The k largest of several tiles, from the k largest of each."""

    def _joint(self, figures: torch.Tensor, d: int) -> torch.Tensor:
        k, every = figures.shape[-2], figures.movedim(d, -3).flatten(-3, -2)
        numbers, places = every.detach().unbind(-1)
        order = places.argsort(stable=True)
        descending = self.node.args["statistic"] == "largest"
        by_number = numbers.gather(-1, order).argsort(stable=True, descending=descending)
        order = order.gather(-1, by_number)
        without_place = places.gather(-1, order).isinf().to(torch.uint8)
        order = order.gather(-1, without_place.argsort(stable=True))[..., :k]
        pairs = order.unsqueeze(-1).expand(*order.shape, 2)
        return every.gather(-2, pairs).unsqueeze(d)


rule("spnb.combined_largest")(CombinedLargest)


@dataclass(frozen=True)
class FinishLargest(Direct):
    """The numbers and the places, each as a tensor."""

    @cached_property
    def axes(self) -> Axes:
        number, dims = self.node.args["dim"], list(self.node.operand_axes[0].dims[:-2])
        dims[number] = dim(self.node.operand_axes[0].shape[-2])
        return self.node.operand_axes[0].with_dims(dims)

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        number = self.node.args["dim"]
        numbers, places = tensors[0].squeeze(number).movedim(-2, number).unbind(-1)
        return numbers.to(self.node.dtype), places.to(torch.int64)


rule("spnb.finish_largest")(FinishLargest)
