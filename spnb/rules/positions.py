"""Positions of the image as values: rows by their numbers, places of largest numbers, unpooling."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from ..ir.axes import Axes, Dim, Factor, dim
from ..ir.node import Node, Ref
from ..ir.region import Region, Span
from ..ir.tiling import Tiling
from .base import Direct, Rule, Spans, Tensors, Weights
from .boxes import OwnBox
from .registry import rule
from .spatial import places, without_unread
from .transposed import Spread


@dataclass(frozen=True)
class Rows(Direct):
    """Positions along an axis by their numbers: ``x[:, :, [0, 2, 2, 7]]``."""

    any_layout = True

    @property
    def numbers(self) -> tuple[int, ...]:
        """The positions, in order."""
        found: tuple[int, ...] = self.node.args["numbers"]
        return found

    @property
    def axis(self) -> int:
        """The axis along which they are taken."""
        return self.node.operand_axes[0].axes_of(self.node.args["dim"])[0]

    @cached_property
    def axes(self) -> Axes:
        number, dims = self.node.args["dim"], list(self.node.operand_axes[0].dims)
        dims[number] = dim(len(self.numbers), self.axis)
        return self.node.operand_axes[0].with_dims(dims)

    def need(self, operand: int, axis: int, span: Span) -> Span:
        if axis != self.axis:
            return super().need(operand, axis, span)
        numbers = self.numbers[slice(*span)]
        return (min(numbers), max(numbers) + 1)

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        (start, _), wanted = needs[0].spans[self.axis], slice(*region.spans[self.axis])
        local = [number - start for number in self.numbers[wanted]]
        index = torch.tensor(local, dtype=torch.int64, device=tensors[0].device)
        return tensors[0].index_select(self.node.args["dim"], index)

    def lower(self, tiling: Tiling) -> Sequence[Node]:
        """If tiles need positions that lie apart, they receive just these."""
        node, axis, numbers = self.node, self.axis, self.numbers
        rising, falling = (sorted(numbers, reverse=turned) for turned in (False, True))
        if tiling.grid[axis] == 1 or list(numbers) in (rising, falling):
            return (node,)
        spans = tiling.spans(self.axes.extent)[axis]
        boxes, orders = [], []
        for k, span in enumerate(spans):
            wanted = numbers[slice(*span)]
            once = sorted(set(wanted))
            args = {**node.args, "numbers": tuple(once)}
            box = replace(node, name=f"{node.name}.box{k}", op="spnb.own_rows.default", args=args)
            boxes.append(replace(box, axes=OwnRows(box).axes))
            orders.append(tuple(once.index(number) for number in wanted))
        picked = {
            "boxes": [Ref(box.name) for box in boxes],
            "boxed": (axis,),
            "parts": {axis: spans},
            "axes": self.axes,
            "dim": node.args["dim"],
            "orders": orders,
        }
        operands = tuple(box.axes for box in boxes)
        joint = replace(node, op="spnb.ordered_rows.default", args=picked, operand_axes=operands)
        return [*boxes, joint]


rule("spnb.rows")(Rows)


@dataclass(frozen=True)
class OwnRows(Rows):
    """Positions that one tile needs; every tile gives those that it owned of the operand."""

    owner_computes = True

    @cached_property
    def axes(self) -> Axes:
        dims = list(self.node.operand_axes[0].dims)
        dims[self.node.args["dim"]] = (Factor(len(self.numbers), self.axis),)
        return self.node.operand_axes[0].with_dims(dims)

    def own(self, tiling: Tiling) -> Spans:
        found = list(tiling.spans(self.node.operand_axes[0].extent))
        ends = (tuple(bisect_left(self.numbers, end) for end in span) for span in found[self.axis])
        found[self.axis] = tuple((start, stop) for start, stop in ends)
        return tuple(found)

    def lower(self, tiling: Tiling) -> Sequence[Node]:
        return (self.node,)


rule("spnb.own_rows")(OwnRows)


@dataclass(frozen=True)
class OrderedRows(OwnBox):
    """Each tile's positions in their order, which may repeat some."""

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        number = self.box_of(region)
        index = torch.tensor(self.node.args["orders"][number], device=tensors[number].device)
        return tensors[number].index_select(self.node.args["dim"], index)


rule("spnb.ordered_rows")(OrderedRows)


@dataclass(frozen=True)
class PlacesOfLargest(Rule):
    """At each position its number along some dimensions, if the largest element is there.

    All other positions have a number that is greater than any position's, so that the smallest of
    these numbers is the place of the first largest element (torch.argmax).
    """

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        x, largest = self._arguments(tensors, region, weights).values()
        numbers = self._numbers(x, region)
        return torch.where((x == largest) | x.isnan(), numbers, self._count)

    @property
    def _dims(self) -> Sequence[int]:
        found: Sequence[int] = self.node.args["dims"]
        return found

    @property
    def _count(self) -> int:
        return math.prod(self.axes.shape[d] for d in self._dims)

    def _arguments(self, tensors: Tensors, region: Region, weights: Weights) -> dict[str, Any]:
        found = super()._arguments(tensors, region, weights)
        return {name: found[name] for name in ("self", "largest")}

    def _numbers(self, x: torch.Tensor, region: Region) -> torch.Tensor:
        """The number of each position of a region, counted over the dimensions in order."""
        step, found = 1, torch.zeros((), dtype=torch.int64, device=x.device)
        for number in reversed(self._dims):
            here = step * numbers_of(self.axes.dims[number], region).to(x.device)
            found = found + here.reshape([-1 if k == number else 1 for k in range(x.ndim)])
            step *= self.axes.shape[number]
        return found


def numbers_of(factors: Dim, region: Region) -> torch.Tensor:
    """The numbers of a region's positions along a dimension of the whole image.

    >>> numbers_of((Factor(4, 1), Factor(5, 2)), Region(((0, 1), (1, 3), (0, 2))))
    tensor([ 5,  6, 10, 11])
    """
    step, found = 1, torch.zeros((1,), dtype=torch.int64)
    for factor in reversed(factors):
        first, stop = (0, factor.size) if factor.axis is None else region.spans[factor.axis]
        found = (step * torch.arange(first, stop)[:, None] + found).flatten()
        step *= factor.size
    return found


rule("spnb.places_of_largest")(PlacesOfLargest)


@dataclass(frozen=True)
class Unpooled(Spread):
    """Each number at the place where max pooling found it, zeros elsewhere (torch.nn.MaxUnpool2d).

    Places are numbers of positions in the whole image.
    """

    def need(self, operand: int, axis: int, span: Span) -> Span:
        return super().need(0, axis, span)

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        needed, sizes = self.needed(region), self.sizes()
        x, left = (without_unread(tensor, needed, sizes) for tensor in tensors)
        count, spans = len(self.places), self.spans(region)
        flat, inside, step = torch.zeros_like(left), torch.ones_like(left, dtype=torch.bool), 1
        for (start, stop), n in zip(reversed(spans), reversed(self.result_sizes()), strict=True):
            here = left % n - start
            inside = inside & (here >= 0) & (here < stop - start)
            flat, left, step = flat + here * step, left // n, step * (stop - start)
        flat = torch.where(inside, flat, step)  # one more position, for those of other tiles
        blank = x.new_zeros((*x.shape[:-count], step + 1))
        result = blank.scatter(-1, flat.flatten(-count), x.flatten(-count))
        return result[..., :step].reshape(self.axes.local_shape(region))


@rule("spnb.max_unpool")
def max_unpool(node: Node) -> Rule | None:
    """The rule of unpooling by the places of a max pooling whose windows do not overlap."""
    count, args = len(node.args["kernel"]), node.args
    where = places(node.operand_axes[0], count)
    if where is None:
        return None
    return Unpooled(node, where, args["kernel"], args["stride"], args["dilation"], args["padding"])
