"""Cuts another part of an axis: positions that lie apart come together on one tile.

Grid attention (Tu et al., *MaxViT*, 2022) lets positions attend to each other that are a whole
number of steps apart.  The axis of ``outer * inner`` positions is viewed as ``outer`` rows of
``inner`` positions; a window of attention is a column of them::

    cut by position                      cut by column: spnb.cut_inner
    tile 0: 0 1 2 3 4 5                  tile 0: 0    3    6    9
    tile 1: 6 7 8 9 10 11                tile 1: 1 2  4 5  7 8  10 11      outer 4, inner 3

In the terms of ScaLAPACK, the first is a block distribution, and the second one is cyclic.  Every
row is a slice that tiles exchange; a tile receives about as many positions as it gives, so none
has the whole.  ``spnb.cut_whole`` is the way back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from ..ir.axes import Axes, Factor, dim, size_of
from ..ir.cyclic_axes import inner_cut, place_of, unfolded, whole_cut, with_dim, with_outer
from ..ir.node import Node, Ref
from ..ir.region import Region, Span
from ..ir.tiling import Tiling
from .base import Direct, Local, Tensors, Weights
from .registry import rule
from .views import Reshape


@dataclass(frozen=True)
class Redistributed(Reshape):
    """The same tensor, of which a tile owns other positions along one axis."""

    @property
    def axis(self) -> int:
        """The axis that is cut in another way."""
        return self.node.args["axis"]

    @property
    def outer(self) -> int:
        """Number of positions of the part that is not cut."""
        return self.node.args["outer"]

    def gathers(self, operand: int, axis: int) -> bool:
        """Without exchanges of slices, a part of the result reads all of the axis."""
        return axis == self.axis

    def need(self, operand: int, axis: int, span: Span) -> Span:
        if axis == self.axis:
            return (0, self.node.operand_axes[0].extent[axis])
        return super().need(operand, axis, span)

    def _lowered(
        self, operand: Axes, number: int, slices: Slices, joint: tuple[str, Axes]
    ) -> list[Node]:
        """The calls that exchange slices of the operand.

        Parameters
        ----------
        operand
            Axes of the operand with a dimension for each factor.
        number
            The dimension that is sliced.
        slices
            Their operator, the arguments of each, and their axes.
        joint
            The operator that joins the slices, and the axes of its result.
        """
        node, name = self.node, self.node.name
        first = viewed_as(node, f"{name}.factors", node.args["self"], node.operand_axes[0], operand)
        cut = [
            replace(
                node,
                name=f"{name}.{k}",
                op=slices.op,
                args={"self": Ref(first.name), "dim": number, **args},
                axes=slices.axes,
                operand_axes=(operand,),
            )
            for k, args in enumerate(slices.args)
        ]
        op, axes = joint
        together = replace(
            node,
            name=f"{name}.joint",
            op=op,
            args={"tensors": [Ref(each.name) for each in cut], "dim": number},
            axes=axes,
            operand_axes=(slices.axes,) * len(cut),
        )
        return [first, *cut, together, viewed_as(node, name, Ref(together.name), axes, self.axes)]


@dataclass(frozen=True)
class Slices:
    """Slices of a value: their operator, the arguments of each, and the axes of all."""

    op: str
    args: Sequence[dict[str, int]]
    axes: Axes


@dataclass(frozen=True)
class CutInner(Redistributed):
    """An axis of ``outer * inner`` positions, of which only ``inner`` are cut from now on."""

    def lower(self, tiling: Tiling) -> Sequence[Node]:
        """Each of ``outer`` slices is cut evenly; a tile receives its part of all of them."""
        if tiling.grid[self.axis] == 1:
            return (self.node,)
        whole = unfolded(self.node.operand_axes[0])
        number = place_of(whole, self.axis)
        inner = size_of(whole.dims[number]) // self.outer
        starts = range(0, inner * self.outer, inner)
        slices = Slices(
            "spnb.taken.default",
            [{"start": start, "stop": start + inner} for start in starts],
            whole.resized(number, inner),
        )
        rows = with_dim(whole, number, (Factor(self.outer), *dim(inner, self.axis)))
        return self._lowered(whole, number, slices, ("spnb.stacked.default", rows))


@dataclass(frozen=True)
class CutWhole(Redistributed):
    """An axis of which only the ``inner`` of ``outer * inner`` positions were cut until now."""

    def lower(self, tiling: Tiling) -> Sequence[Node]:
        """A tile's positions are a few slices, of each of which other tiles have a part."""
        if tiling.grid[self.axis] == 1:
            return (self.node,)
        rows = with_outer(self.node.operand_axes[0], self.axis, self.outer)
        number = place_of(rows, self.axis) - 1
        each = rows.with_dims([d for k, d in enumerate(rows.dims) if k != number])
        slices = Slices("spnb.row.default", [{"index": k} for k in range(self.outer)], each)
        whole = each.resized(number, self.outer * size_of(each.dims[number]))
        return self._lowered(rows, number, slices, ("aten.cat.default", whole))


def viewed_as(node: Node, name: str, value: Ref, axes: Axes, result: Axes) -> Node:
    """A call that views a value with axes as one with the axes of a result."""
    args = {"self": value, "axes": result}
    op = "spnb.viewed.default"
    return replace(node, name=name, op=op, args=args, axes=result, operand_axes=(axes,))


@rule("spnb.viewed")
def viewed(node: Node) -> Reshape:
    """The rule of a view of which the axes are known."""
    return Reshape(node, node.args["axes"])


@rule("spnb.cut_inner")
def cut_inner(node: Node) -> CutInner:
    """The rule of cutting only the inner positions of an axis."""
    result = inner_cut(node.operand_axes[0], node.args["axis"], node.args["outer"])
    return CutInner(node, result)


@rule("spnb.cut_whole")
def cut_whole(node: Node) -> CutWhole:
    """The rule of cutting all positions of an axis again."""
    result = whole_cut(node.operand_axes[0], node.args["axis"], node.args["outer"])
    return CutWhole(node, result)


@dataclass(frozen=True)
class Stacked(Direct):
    """Tensors that are all cut alike, as the rows of a dimension of which columns are cut."""

    any_layout = True

    @cached_property
    def axes(self) -> Axes:
        number, (first, *_) = self.node.args["dim"], self.node.operand_axes
        outer = Factor(len(self.node.operand_axes))
        return with_dim(first, number, (outer, *first.dims[number]))

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        return torch.cat(list(tensors), self.node.args["dim"])


rule("spnb.stacked")(Stacked)


@dataclass(frozen=True)
class Row(Local):
    """One position of a dimension that is not cut; tiles send parts of it to each other."""

    owner_computes = True
    any_layout = True

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        return tensors[0].select(self.node.args["dim"], self.node.args["index"])


@rule("spnb.row")
def row(node: Node) -> Row:
    """The rule of one row of an axis of which only the columns are cut."""
    axes, number = node.operand_axes[0], node.args["dim"]
    return Row(node, axes.with_dims([d for k, d in enumerate(axes.dims) if k != number]))
