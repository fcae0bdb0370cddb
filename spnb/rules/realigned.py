"""Cuts other dimensions of a value: a turned image is cut as the image that it meets.

A permutation moves the axes of the image with their dimensions, so it sends nothing::

    x      (1, 64, rows, columns)     the tile in row 0, column 1 of the grid: upper right
    x.mT   (1, 64, columns, rows)     the same tile: lower left

If both are added, the tile needs another part of one of them.  ``spnb.realigned`` is the same
tensor with its axes in other dimensions; each tile receives its new part from the others.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from ..ir.cyclic_axes import unfolded
from ..ir.node import Node, Ref
from ..ir.region import Span
from ..ir.tiling import Tiling
from .boxes import boxes_of
from .cyclic_cut import viewed_as
from .registry import rule
from .views import Reshape


@dataclass(frozen=True)
class Realigned(Reshape):
    """The same tensor, of which a tile owns another part, as other dimensions are cut."""

    @cached_property
    def moved(self) -> dict[int, int]:
        """The axes of the result that another axis takes the place of in the operand; by axis."""
        before, after = (unfolded(axes).dims for axes in (self.node.operand_axes[0], self.axes))
        pairs = ((b.axis, a.axis) for (b,), (a,) in zip(before, after, strict=True))
        return {a: b for b, a in pairs if a != b and a is not None and b is not None}

    def gathers(self, operand: int, axis: int) -> bool:
        """Without boxes, a part of the result reads all of the axes that change places."""
        return axis in self.moved.values()

    def need(self, operand: int, axis: int, span: Span) -> Span:
        if axis in self.moved or axis in self.moved.values():
            return (0, self.node.operand_axes[0].extent[axis])
        return super().need(operand, axis, span)

    def lower(self, tiling: Tiling) -> Sequence[Node]:
        """Each tile receives a box: its new part."""
        if all(tiling.grid[axis] == 1 for axis in (*self.moved, *self.moved.values())):
            return (self.node,)
        node, name = self.node, self.node.name
        before, after = unfolded(node.operand_axes[0]), unfolded(self.axes)
        value = node.args["self"]
        first = viewed_as(node, f"{name}.factors", value, node.operand_axes[0], before)
        parts = {axis: tiling.spans(after.extent)[axis] for axis in self.moved}
        places = itertools.product(*parts.values())
        spans = (dict(zip(self.moved.values(), place, strict=True)) for place in places)
        boxes = boxes_of(node, Ref(first.name), before, spans)
        own = replace(
            node,
            name=f"{name}.own",
            op="spnb.own_box.default",
            args={
                "boxes": [Ref(box.name) for box in boxes],
                "boxed": tuple(self.moved.values()),
                "parts": parts,
                "axes": after,
            },
            axes=after,
            operand_axes=tuple(box.axes for box in boxes),
        )
        return [first, *boxes, own, viewed_as(node, name, Ref(own.name), after, self.axes)]


@rule("spnb.realigned")
def realigned(node: Node) -> Realigned:
    """The rule of a value of which other dimensions are cut from now on."""
    return Realigned(node, node.args["axes"])
