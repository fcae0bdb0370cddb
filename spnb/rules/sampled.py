"""Samples of an image at coordinates that are known when a network is planned.

Coordinates that are computed from the image may lie anywhere, so they need the whole image.  Those
of a constant grid, such as that of a rotation by a fixed angle, are known: each tile receives the
box of the image that its samples read.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ..ir.axes import Axes, dim
from ..ir.node import Node, Ref, Weight
from ..ir.region import Region, Span
from ..ir.tiling import Tiling
from .base import Direct, Rule, Tensors, Weights
from .boxes import FromBoxes, boxes_of
from .calls import invoke
from .registry import rule
from .sampling import Reach, Sampling, weighted
from .spatial import places

SAMPLER = "aten.grid_sampler.default"


def sampled_axes(image: Axes, grid: Sequence[int], where: Sequence[int]) -> Axes:
    """Axes of the samples of an image, from the shape of the grid."""
    space = [dim(n, axis) for n, axis in zip(grid[1:-1], where, strict=True)]
    return image.with_dims([*image.dims[:2], *space])


def grid_axes(samples: Axes) -> Axes:
    """Axes of a grid, from those of the samples that are taken with it."""
    return samples.with_dims([samples.dims[0], *samples.dims[2:], dim(len(samples.dims) - 2)])


@dataclass(frozen=True)
class Sampled(Direct):
    """Samples at the coordinates of a constant grid (torch.nn.functional.grid_sample).

    Parameters
    ----------
    places
        The axis of the image in each spatial dimension.
    """

    places: tuple[int, ...]

    @cached_property
    def axes(self) -> Axes:
        shape = (0, *self.node.shape[2:], 0)
        return sampled_axes(self.node.operand_axes[0], shape, self.places)

    def gathers(self, operand: int, axis: int) -> bool:
        """Without boxes, a part of the samples may read all of the image."""
        return operand == 0 and axis in self.places

    def need(self, operand: int, axis: int, span: Span) -> Span:
        whole = (0, self.node.operand_axes[0].extent[axis])
        return whole if self.gathers(operand, axis) else span

    def against(self, weight: Weight) -> Axes | None:
        return grid_axes(self.axes)

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        local = {w.name: self._fitted_weight(w, weights, region) for w in self.node.weights}
        args = self.node.bind(tensors, local)
        del args["reach"]
        return invoke(SAMPLER, args)

    def lower(self, tiling: Tiling) -> Sequence[Node]:
        """Each tile receives the box that its samples read."""
        node, image, args = self.node, self.node.operand_axes[0], self.node.args
        if all(tiling.grid[axis] == 1 for axis in self.places):
            return (node,)
        reach: Reach = args["reach"]
        parts = {axis: tiling.spans(self.axes.extent)[axis] for axis in self.places}
        spans = [reach.of(place) for place in itertools.product(*parts.values())]
        spans = [[(a, max(b, a + 1)) for a, b in box] for box in spans]
        named = [dict(zip(self.places, box, strict=True)) for box in spans]
        boxes = boxes_of(node, args["input"], image, named)
        how = Sampling(
            args["interpolation_mode"],
            args["padding_mode"],
            args["align_corners"],
            tuple(image.shape[2:]),
        )
        sampled = {
            "boxes": [Ref(box.name) for box in boxes],
            "grid": args["grid"],
            "boxed": self.places,
            "parts": parts,
            "starts": [[a for a, _ in box] for box in spans],
            "how": how,
            "axes": self.axes,
        }
        grids = self.node.operand_axes[1:]
        operands = (*(box.axes for box in boxes), *grids)
        op = "spnb.sampled_box.grid_sampler"
        return [*boxes, replace(node, op=op, args=sampled, operand_axes=operands)]


@rule("spnb.grid_sampler")
def sampled(node: Node) -> Rule:
    """The rule of samples at coordinates that are known: capture has found which positions."""
    where = places(node.operand_axes[0], len(node.shape) - 2)
    assert where is not None  # capture asks for it
    return Sampled(node, tuple(axis for axis in where if axis is not None))


@dataclass(frozen=True)
class SampledBox(FromBoxes):
    """The samples of each tile, from the box that it receives."""

    def need(self, operand: int, axis: int, span: Span) -> Span:
        of_grid = operand == len(self.node.args["boxes"])
        return span if of_grid else super().need(operand, axis, span)

    def against(self, weight: Weight) -> Axes | None:
        return grid_axes(self.axes)

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        number, how = self.box_of(region), self.node.args["how"]
        for weight in self.node.weights:
            tensors = [*tensors, self._fitted_weight(weight, weights, region)]
        taps = how.taps(tensors[-1].detach())
        return weighted(tensors[number], taps, self.node.args["starts"][number])


rule("spnb.sampled_box")(SampledBox)
