"""Operators that move positions along space: concatenation, rolls, flips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch

from ..ir.axes import Axes, axes_in, dim
from ..ir.broadcasting import fitted, joined_along
from ..ir.node import Node, Ref, Weight
from ..ir.region import Region, Span, intersect
from ..ir.tiling import Tiling
from .along_batch import along_batch
from .base import Direct, Local, Rule, Spans, Tensors, Weights
from .elementwise import Joined
from .fallback import Whole, WholeImages
from .registry import rule
from .slices import Strided


@dataclass(frozen=True)
class Concatenated(Rule):
    """Tensors one after another along an axis of the image.

    Parameters
    ----------
    number, axis
        The dimension, and the axis in it.
    """

    any_layout = True

    number: int
    axis: int

    @cached_property
    def axes(self) -> Axes:
        shape, k, rank = self.node.shape, self.number, self.node.axes.rank
        return joined_along(k, dim(shape[k], self.axis), shape, self.node.operand_axes, rank)

    @cached_property
    def _tensors(self) -> tuple[Axes, ...]:
        """Axes of each tensor, in order; constants are held whole."""
        operands, rank = iter(self.node.operand_axes), self.node.axes.rank
        return tuple(
            next(operands) if isinstance(tensor, Ref) else Axes.uncut(tensor.shape, rank)
            for tensor in self.node.args["tensors"]
        )

    @cached_property
    def _spans(self) -> list[Span]:
        """The positions of the result that each tensor gives."""
        stops = list(accumulate(axes.shape[self.number] for axes in self._tensors))
        return list(zip([0, *stops], stops, strict=False))

    @cached_property
    def starts(self) -> list[int]:
        """Where each operand begins."""
        pairs = zip(self.node.args["tensors"], self._spans, strict=True)
        return [start for tensor, (start, _) in pairs if isinstance(tensor, Ref)]

    def _cut(self, axes: Axes) -> bool:
        """Whether tiles have parts of a tensor along the axis."""
        return self.axis in axes.axes_of(self.number)

    def gathers(self, operand: int, axis: int) -> bool:
        return axis != self.axis and super().gathers(operand, axis)

    def need(self, operand: int, axis: int, span: Span) -> Span:
        if axis != self.axis or not self._cut(self.node.operand_axes[operand]):
            return super().need(operand, axis, span)
        return (span[0] - self.starts[operand], span[1] - self.starts[operand])

    def against(self, weight: Weight) -> Axes | None:
        return self.axes.without(self.number)

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        given, beside = self.node.bind(tensors, weights)["tensors"], self.axes.without(self.number)
        pieces = []
        for tensor, axes, span in zip(given, self._tensors, self._spans, strict=True):
            start, stop = intersect(span, region.spans[self.axis])
            if start == stop:
                continue
            if not self._cut(axes):
                tensor = tensor.narrow(self.number, start - span[0], stop - start)
            pieces.append(fitted(tensor, axes.without(self.number), beside, region))
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, self.number)


@rule("cat", "concat", "concatenate")
def joined(node: Node) -> Rule | None:
    """The rule of a concatenation, along channels or along space."""
    number = node.args["dim"] % len(node.shape)
    operands = node.operand_axes
    if any(len(axes.dims) != len(node.shape) for axes in operands):
        return None  # PyTorch skips empty tensors of one dimension
    found = {axis for axes in operands for axis in axes.axes_of(number)}
    if not found:
        return Joined(node, number)
    if 0 in found:
        return along_batch(node, number)
    if len(found) > 1 or any(len(axes.dims[number]) > 1 for axes in operands):
        return WholeImages(node)
    return Concatenated(node, number, found.pop())


@rule("spnb.in_a_row")
def in_a_row(node: Node) -> Rule:
    """The rule of a concatenation along a known axis; slices of one position have none."""
    return Concatenated(node, node.args["dim"], node.args["axis"])


@dataclass(frozen=True)
class Taken(Strided):
    """A slice along an axis; a tile owns those of its positions that it owned of the operand.

    Tiles that need other positions receive them, even from the other end of the image.
    """

    owner_computes = True

    def own(self, tiling: Tiling) -> Spans:
        spans = list(tiling.spans(self.node.operand_axes[0].extent))
        taken = (self.first, self.first + self.node.shape[self.number])
        owned = (intersect(span, taken) for span in spans[self.axis])
        spans[self.axis] = tuple((a - self.first, max(a, b) - self.first) for a, b in owned)
        return tuple(spans)


@rule("spnb.taken")
def taken(node: Node) -> Rule:
    """The rule of a slice of the operand that a roll or a circular padding moves elsewhere."""
    return Taken(node, node.args["dim"], node.args["start"], 1)


def rearranged(node: Node, pieces: dict[int, list[Span]]) -> list[Node]:
    """Calls that take spans of an operand and concatenate them, one dimension after another.

    Parameters
    ----------
    node
        The call that they replace; the last of them has its name.
    pieces
        For each dimension the spans to take, in their new order.
    """
    nodes: list[Node] = []
    value, axes = node.args["self"], node.operand_axes[0]
    for number, spans in pieces.items():
        (axis,) = axes.axes_of(number) or node.axes.axes_of(number)
        slices: list[Node] = []
        for start, stop in spans if axes.shape[number] > 1 else ():
            slices.append(
                replace(
                    node,
                    name=f"{node.name}.{len(nodes) + len(slices)}",
                    op="spnb.taken.default",
                    args={"self": value, "dim": number, "start": start, "stop": stop},
                    axes=axes.resized(number, stop - start),
                    operand_axes=(axes,),
                )
            )
        each = [(Ref(call.name), call.axes) for call in slices] or [(value, axes)] * len(spans)
        total = dim(sum(stop - start for start, stop in spans), axis)
        joint = replace(
            node,
            name=f"{node.name}.{len(nodes) + len(slices)}",
            op="spnb.in_a_row.cat",
            args={"tensors": [ref for ref, _ in each], "dim": number, "axis": axis},
            axes=axes.with_dims([total if k == number else d for k, d in enumerate(axes.dims)]),
            operand_axes=tuple(own for _, own in each),
        )
        nodes += [*slices, joint]
        value, axes = Ref(joint.name), joint.axes
    nodes[-1] = replace(nodes[-1], name=node.name)
    return nodes


@dataclass(frozen=True)
class Rolled(Whole):
    """A roll: positions that leave a tensor at one end come in at the other (torch.roll).

    Parameters
    ----------
    shifts
        For each dimension the number of positions by which it moves.
    """

    shifts: dict[int, int]

    def gathers(self, operand: int, axis: int) -> bool:
        """Whether an axis moves: then the first tile reads the end of the last one."""
        moved = (n for n, shift in self.shifts.items() if shift % self.axes.shape[n])
        return any(axis in self.axes.axes_of(number) for number in moved)

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        shifts = {n: shift for n, shift in self.shifts.items() if shift % self.axes.shape[n]}
        rolled = tensors[0].roll(list(shifts.values()), list(shifts)) if shifts else tensors[0]
        return self.axes.piece(rolled, self._held(region, needs, tensors), region)

    def lower(self, tiling: Tiling) -> Sequence[Node]:
        """Two slices change places; the tiles that own them send them."""
        pieces = {}
        for number, shift in self.shifts.items():
            n = self.node.shape[number]
            if k := shift % n:
                pieces[number] = [(n - k, n), (0, n - k)]
        one_factor = all(len(self.axes.dims[number]) == 1 for number in pieces)
        axes = [self.axes.axes_of(number) for number in pieces]
        cut = all(axes) and any(tiling.grid[a] > 1 for (a, *_) in axes)
        return rearranged(self.node, pieces) if one_factor and cut else (self.node,)


@rule("roll")
def rolled(node: Node) -> Rule | None:
    """The rule of a roll."""
    axes = node.operand_axes[0]
    numbers = [d % len(axes.dims) for d in node.args["dims"]]
    if not numbers or any(0 in axes.axes_of(n) for n in numbers):
        return None
    shifts = dict.fromkeys(numbers, 0)
    for number, shift in zip(numbers, node.args["shifts"], strict=True):
        shifts[number] += shift
    return Rolled(node, shifts)


@dataclass(frozen=True)
class Flipped(Direct):
    """Positions in reversed order along some dimensions (torch.flip)."""

    @cached_property
    def turned(self) -> frozenset[int]:
        """The axes that are reversed."""
        axes = self.node.operand_axes[0]
        return frozenset(a for d in self.node.args["dims"] for a in axes.axes_of(d))

    def need(self, operand: int, axis: int, span: Span) -> Span:
        n = self.node.operand_axes[0].extent[axis]
        return (n - span[1], n - span[0]) if axis in self.turned else super().need(0, axis, span)

    def lower(self, tiling: Tiling) -> Sequence[Node]:
        """Each tile reverses its own part, and sends it to the tiles that need it."""
        if not any(tiling.grid[axis] > 1 for axis in self.turned):
            return (self.node,)
        turned = replace(self.node, name=f"{self.node.name}.0", op="spnb.flipped.default")
        args = {"self": Ref(turned.name)}
        moved = replace(self.node, op="aten.alias.default", args=args, operand_axes=(turned.axes,))
        return (turned, moved)


@dataclass(frozen=True)
class FlippedInPlace(Flipped):
    """Each tile reverses its own part, and owns the mirrored part of the result."""

    owner_computes = True

    def own(self, tiling: Tiling) -> Spans:
        spans = list(tiling.spans(self.axes.extent))
        for axis in self.turned:
            n = self.axes.extent[axis]
            spans[axis] = tuple((n - b, n - a) for a, b in spans[axis])
        return tuple(spans)

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        return tensors[0].flip(self.node.args["dims"])

    def lower(self, tiling: Tiling) -> Sequence[Node]:
        return (self.node,)


@rule("flip", "spnb.flipped")
def flipped(node: Node) -> Rule | None:
    """The rule of a flip, along channels or along space."""
    axes = node.operand_axes[0]
    factors = [axes.dims[d] for d in node.args["dims"]]
    if any(0 in axes_in(f) for f in factors):
        return (
            along_batch(node, node.args["dims"][0] % len(axes.dims)) if len(factors) == 1 else None
        )
    if not any(map(axes_in, factors)):
        return Local(node, axes)
    if any(len(f) > 1 for f in factors):
        return Whole(node)
    return FlippedInPlace(node) if node.op.startswith("spnb") else Flipped(node)
