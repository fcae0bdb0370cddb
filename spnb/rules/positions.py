"""Positions of the image as values: rows by their numbers, places of largest numbers, unpooling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from ..ir.axes import Axes, dim
from ..ir.node import Node
from ..ir.region import Region, Span
from .base import Direct, Rule, Tensors, Weights
from .registry import rule
from .spatial import places, without_unread
from .transposed import Spread


@dataclass(frozen=True)
class Rows(Direct):
    """Positions along an axis by their numbers, which do not fall: ``x[:, :, [0, 2, 2, 7]]``."""

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
        return (self.numbers[span[0]], self.numbers[span[1] - 1] + 1)

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        (start, _), wanted = needs[0].spans[self.axis], slice(*region.spans[self.axis])
        local = [number - start for number in self.numbers[wanted]]
        index = torch.tensor(local, dtype=torch.int64, device=tensors[0].device)
        return tensors[0].index_select(self.node.args["dim"], index)


rule("spnb.rows")(Rows)


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
            along = torch.zeros((1,), dtype=torch.int64, device=x.device)
            for factor in reversed(self.axes.dims[number]):
                first, stop = (0, factor.size) if factor.axis is None else region.spans[factor.axis]
                here = step * torch.arange(first, stop, device=x.device)
                along = (here[:, None] + along).flatten()
                step *= factor.size
            found = found + along.reshape([-1 if k == number else 1 for k in range(x.ndim)])
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
