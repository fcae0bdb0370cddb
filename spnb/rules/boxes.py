"""Boxes of a value: each tile receives one of its own, from the tiles that hold parts of it.

Where a part of a result lies in its operand is mostly found axis by axis.  If an operator turns
the image, it is not: the rows of a tile's result are columns of the operand, say.  Then the
operand is divided into boxes, one for each tile.  A tile owns of each box what it owned of the
operand, so the tile that needs the box receives it, and all other tiles need none of it::

    operand, cut by columns   boxes of the tiles     result x.mT, cut by columns
    ┌─────┬─────┐             ┌───────────┐          ┌─────┬─────┐
    │  0  │  1  │      ─►     │  for 0    │    ─►    │  0  │  1  │
    │     │     │             ├───────────┤          │     │     │
    │     │     │             │  for 1    │          │     │     │
    └─────┴─────┘             └───────────┘          └─────┴─────┘
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ..ir.axes import Axes, Factor
from ..ir.exchange import Spans
from ..ir.node import Node, Ref
from ..ir.region import Region, Span, intersect, length
from ..ir.tiling import Tiling
from .base import Direct, Tensors, Weights
from .registry import rule


@dataclass(frozen=True)
class Box(Direct):
    """A box of a value; a tile owns those of its positions that it owned of the value."""

    owner_computes = True
    any_layout = True

    @property
    def spans(self) -> Mapping[int, Span]:
        """By axis, the positions of the box; all of the other axes."""
        found: Mapping[int, Span] = self.node.args["spans"]
        return found

    @cached_property
    def axes(self) -> Axes:
        def inside(factor: Factor) -> Factor:
            if factor.axis is None or factor.axis not in self.spans:
                return factor
            return Factor(length(self.spans[factor.axis]), factor.axis)

        operand = self.node.operand_axes[0]
        return operand.with_dims([tuple(map(inside, factors)) for factors in operand.dims])

    def need(self, operand: int, axis: int, span: Span) -> Span:
        first, _ = self.spans.get(axis, (0, 0))
        return (span[0] + first, span[1] + first)

    def own(self, tiling: Tiling) -> Spans:
        found = list(tiling.spans(self.node.operand_axes[0].extent))
        for axis, box in self.spans.items():
            owned = (intersect(span, box) for span in found[axis])
            found[axis] = tuple((a - box[0], max(a, b) - box[0]) for a, b in owned)
        return tuple(found)

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        return tensors[0]


rule("spnb.box")(Box)


def boxes_of(node: Node, value: Ref, axes: Axes, boxes: Iterable[Mapping[int, Span]]) -> list[Node]:
    """The calls that take boxes of a value.

    Parameters
    ----------
    node
        The call that they are a part of; their names begin with its name.
    value, axes
        The value, and where the axes of the image lie in it.
    boxes
        For each box, its span along some axes.
    """
    calls = []
    for number, spans in enumerate(boxes):
        call = replace(
            node,
            name=f"{node.name}.box{number}",
            op="spnb.box.default",
            args={"self": value, "spans": dict(spans)},
            axes=axes,
            operand_axes=(axes,),
        )
        calls.append(replace(call, axes=Box(call).axes))
    return calls


@dataclass(frozen=True)
class FromBoxes(Direct):
    """An operator of which each tile computes its part from a box of its own.

    The argument ``parts`` has, by axis of the result, the span of each part of the grid; there is
    a box for each combination, in order.  ``boxed`` has the axes along which boxes are cut out,
    ``axes`` those of the result.
    """

    owner_computes = True

    @cached_property
    def axes(self) -> Axes:
        found: Axes = self.node.args["axes"]
        return found

    @property
    def parts(self) -> Mapping[int, Sequence[Span]]:
        """By axis, the spans of the result that the parts of a grid own."""
        found: Mapping[int, Sequence[Span]] = self.node.args["parts"]
        return found

    def need(self, operand: int, axis: int, span: Span) -> Span:
        extent = self.node.operand_axes[operand].extent[axis]
        if axis in self.parts and self._place_of(operand)[axis] != span:
            return (0, 0)
        return (0, extent) if axis in self.node.args["boxed"] or axis in self.parts else span

    def _place_of(self, operand: int) -> dict[int, Span]:
        """By axis, the span of the result that is computed from a box."""
        found: dict[int, Span] = {}
        for axis in reversed(list(self.parts)):
            operand, k = divmod(operand, len(self.parts[axis]))
            found[axis] = self.parts[axis][k]
        return found

    def box_of(self, region: Region) -> int:
        """The number of the box from which a region of the result is computed."""
        found = 0
        for axis, spans in self.parts.items():
            found = found * len(spans) + spans.index(region.spans[axis])
        return found


@dataclass(frozen=True)
class OwnBox(FromBoxes):
    """The box of each tile, as its part of a value that is cut in another way."""

    any_layout = True

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        return tensors[self.box_of(region)]


rule("spnb.own_box")(OwnBox)
