"""Operators that read their whole operands, and operators without a rule."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from ..ir.axes import Axes, axes_in, dim, size_of
from ..ir.node import Node, Weight, overload
from ..ir.region import Region
from ..ir.tiling import Tiling
from .base import Rule, Tensors, Weights
from .calls import invoke
from .registry import factory_of, rule


@dataclass(frozen=True)
class Whole(Rule):
    """An operator that reads all of space, but computes each image of the batch separately.

    It is called on whole operands, and the wanted region is cut from the result.
    """

    @cached_property
    def axes(self) -> Axes:
        """The axes of the first operand of the same shape; without one, only the batch is cut."""
        shape, operands = self.node.shape, self.node.operand_axes
        for axes in operands:
            if axes.shape == shape:
                return axes
        rank = self.node.axes.rank
        batched = self.known and any(a.dims and axes_in(a.dims[0]) == (0,) for a in operands)
        if shape and batched and all(a.shape[:1] == shape[:1] for a in operands):
            return Axes((dim(shape[0], 0), *map(dim, shape[1:])), rank)
        return Axes.uncut(shape, rank)

    def against(self, weight: Weight) -> Axes | None:
        return None

    def gathers(self, operand: int, axis: int) -> bool:
        """Whether the axis is one of space, or the batch of an operand if the result has none."""
        axes = self.node.operand_axes[operand]
        batched = 0 in self.axes.present and axes.extent[0] == self.axes.extent[0]
        return axes.extent[axis] > 1 and not (axis == 0 and batched and self.known)

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        args = self.node.bind(tensors, weights)
        for name in ("size", "shape", "output_size"):  # these count the images of the whole batch
            given, shape = args.get(name), self.node.shape
            if not isinstance(given, list) or len(given) != len(shape):
                continue
            if all(n in (-1, m) for n, m in zip(given, shape, strict=True)):
                args[name] = list(self.axes.local_shape(self._held(region, needs, tensors)))
        return self._wanted(invoke(self.node.op, args), needs, tensors, region)

    def _held(self, region: Region, needs: Sequence[Region], tensors: Tensors) -> Region:
        """The region of the result that a call computes, of which a region is wanted.

        It has all of space where the call reads all of it.  It has the images of the operand: a
        micro-batch, whose images the call may mix, has fewer than the batch.
        """
        spans = list(region.spans)
        for axis, extent in enumerate(self.axes.extent):
            gathered = [k for k in range(len(self.node.operands)) if self.gathers(k, axis)]
            if gathered and (axis or self._has_batch(gathered[0], needs, tensors)):
                spans[axis] = (0, extent)
        return Region(tuple(spans))

    def _has_batch(self, number: int, needs: Sequence[Region], tensors: Tensors) -> bool:
        """Whether an operand has all images that are needed: those of the whole batch."""
        shape = self.node.operand_axes[number].local_shape(needs[number])
        return tensors[number].numel() == math.prod(shape)

    def _wanted(
        self, result: Any, needs: Sequence[Region], tensors: Tensors, region: Region
    ) -> Any:
        held = self._held(region, needs, tensors)
        if isinstance(result, (tuple, list)):
            pairs = zip(result, self.node.parts, strict=True)
            return tuple(axes_of_part(self.axes, s).piece(p, held, region) for p, s in pairs)
        return self.axes.piece(result, held, region)


@dataclass(frozen=True)
class AlongDimensions(Whole):
    """An operator along some dimensions, of which it reads all; it reads no more of the others.

    Parameters
    ----------
    result
        Where the axes of the image lie in the result.
    numbers
        The dimensions of the operands.
    """

    result: Axes
    numbers: tuple[int, ...]

    @cached_property
    def axes(self) -> Axes:
        return self.result

    def gathers(self, operand: int, axis: int) -> bool:
        axes = self.node.operand_axes[operand]
        return any(axis in axes.axes_of(number) for number in self.numbers)


def axes_of_part(whole: Axes, shape: Sequence[int]) -> Axes:
    """The axes of one of several results, from those of the first; other dimensions are not cut."""
    if len(whole.dims) != len(shape):
        return Axes.uncut(shape, whole.rank)
    pairs = zip(whole.dims, shape, strict=True)
    return whole.with_dims([d if size_of(d) == n else dim(n) for d, n in pairs])


@dataclass(frozen=True)
class Unknown(Whole):
    """An operator without a rule: it reads everything, and may mix the images of a batch."""

    known = False


INDEPENDENT = """
    adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d grid_sampler grid_sampler_2d
    grid_sampler_3d max_unpool2d max_unpool3d
"""


@dataclass(frozen=True)
class WholeImages(Whole):
    """An operator on tensors with the images of the batch in their first dimension.

    Constants have them, too.
    """

    def against(self, weight: Weight) -> Axes | None:
        first = self.axes.dims[0] if self.axes.dims else ()
        if axes_in(first) != (0,) or weight.shape[:1] != self.axes.shape[:1]:
            return None
        return Axes((first, *map(dim, weight.shape[1:])), self.axes.rank)

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        held = self._held(region, needs, tensors)
        local = {w.name: self._fitted_weight(w, weights, held) for w in self.node.weights}
        return super().apply(tensors, needs, region, local)


@rule(*INDEPENDENT.split())
def independent(node: Node) -> Rule | None:
    """The rule of operators that compute each image separately, unless along the batch."""
    rank, along = len(node.operand_axes[0].dims), node.args.get("dim", 1)
    along = [along] if isinstance(along, int) else along
    return WholeImages(node) if along and all(d % rank for d in along) else None


def rule_of(node: Node) -> Rule:
    """The rule of a call; `Unknown` if the operator has no rule for such a call.

    It is made once, and cached in the call.
    """
    found = node.cache.get(Rule)
    if found is None:
        factory = factory_of(node.op) or _tagged
        found = node.cache[Rule] = factory(node) or Unknown(node)
    return found


def _tagged(node: Node) -> Rule | None:
    """The rule of an operator of which PyTorch itself says that it is elementwise."""
    aten = node.op.startswith("aten.")
    return Rule(node) if aten and torch.Tag.pointwise in overload(node.op).tags else None


def whole_axes(rule: Rule, operand: int, tiling: Tiling) -> tuple[int, ...]:
    """The axes of space that a grid cuts, and along which a call needs a whole operand."""
    extent = rule.node.operand_axes[operand].extent
    cut = (axis for axis, n in enumerate(tiling.grid) if axis and n > 1 and extent[axis] > 1)
    return tuple(axis for axis in cut if rule.gathers(operand, axis))


def gathered_axes(rule: Rule, operand: int, tiling: Tiling) -> tuple[int, ...]:
    """The axes along which a call gathers an operand: it needs all of it, and it takes memory.

    A tile that computes a score for each of its queries and all keys has a result that is larger
    than all keys.  Then these are not gathered, but belong to what the tile computes.  A result
    that no tile has a part of says nothing: it may be as large as the image itself.
    """
    axes = whole_axes(rule, operand, tiling)
    if not axes or isinstance(rule, Whole):
        return axes
    others = enumerate(rule.node.operand_axes)
    held = [rule.axes, *(own for k, own in others if not whole_axes(rule, k, tiling))]
    cut = (elements_of_tile(own, tiling) for own in held if own.present.intersection(axes))
    largest = max(cut, default=0)
    needed = elements_of_tile(rule.node.operand_axes[operand], tiling, axes)
    return axes if needed > largest else ()


def elements_of_tile(axes: Axes, tiling: Tiling, whole: Collection[int] = ()) -> int:
    """The number of elements of the largest tile of a value, of which some axes are not cut."""
    return math.prod(
        f.size if f.axis is None or f.axis in whole else math.ceil(f.size / tiling.grid[f.axis])
        for f in axes.factors
    )
