"""Operators that move positions along space: slices, joins, rolls, flips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from ..axes import Axes, aligned, axes_in, broadcast, dim, fitted
from ..node import Node, Ref, Weight
from ..region import Region, Span, Tiling, meet
from .base import Local, Rule, Spans, Tensors, Weights, rule
from .elementwise import Joined, uncut
from .whole import Whole


def bounds(node: Node, n: int) -> tuple[int, int, int]:
    """First position, end and step of a slice of a dimension of size ``n``."""
    args = node.args
    if node.kind == "narrow":
        start = args["start"] % n if n else 0
        return start, start + args["length"], 1
    return slice(args.get("start"), args.get("end"), args.get("step", 1)).indices(n)


@dataclass(frozen=True)
class Strided(Rule):
    """Every ``step``-th position along an axis from ``first`` on.

    Parameters
    ----------
    number
        The dimension.
    first, step
        Of the slice.
    """

    number: int
    first: int
    step: int

    @property
    def axis(self) -> int:
        """The axis that is sliced."""
        return self.node.operand_axes[0].axes_of(self.number)[0]

    @cached_property
    def axes(self) -> Axes:
        dims = list(self.node.operand_axes[0].dims)
        if len(dims) > len(self.node.shape):  # one position: the dimension is gone
            del dims[self.number]
        else:
            dims[self.number] = dim(self.node.shape[self.number], self.axis)
        return self.node.operand_axes[0].with_dims(dims)

    def gathers(self, operand: int, axis: int) -> bool:
        return False

    def need(self, operand: int, axis: int, span: Span) -> Span:
        if axis != self.axis:
            return super().need(operand, axis, span)
        return (self.first + span[0] * self.step, self.first + (span[1] - 1) * self.step + 1)

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        if len(self.axes.dims) < tensors[0].ndim:
            return tensors[0].select(self.number, 0)
        every = [slice(None)] * tensors[0].ndim
        every[self.number] = slice(None, None, self.step)
        return tensors[0][tuple(every)]


@rule("slice", "narrow", "select")
def sliced(node: Node) -> Rule | None:
    """A slice, of channels or of space."""
    axes = node.operand_axes[0]
    number = node.args["dim"] % len(axes.dims)
    n = axes.shape[number]
    if uncut(axes, [number]):
        dims = list(axes.dims)
        dims[number] = dim(node.shape[number]) if node.kind != "select" else ()
        if node.kind == "select":
            del dims[number]
        return Local(node, axes.with_dims(dims))
    if len(axes.dims[number]) > 1:
        return Whole(node)
    if node.kind == "select":
        first, step = node.args["index"] % n, 1
    else:
        first, _, step = bounds(node, n)
    if 0 in axes.axes_of(number):  # images of the batch: those of a micro-batch are others
        return Local(node, axes) if node.shape == axes.shape else None
    return Strided(node, number, first, step)


@rule("index", "index_select")
def indexed(node: Node) -> Rule | None:
    """Channels picked by numbers that are known before the network runs."""
    axes, indices = node.operand_axes[0], node.args.get("indices")
    if indices is None:
        number, index = node.args["dim"] % len(axes.dims), node.args["index"]
    else:
        given = [k for k, index in enumerate(indices) if index is not None]
        if len(given) != 1:
            return None
        number, index = given[0], indices[given[0]]
    if not isinstance(index, Weight) or len(index.shape) != 1 or len(node.operands) > 1:
        return None
    if not uncut(axes, [number]):
        return None if 0 in axes.axes_of(number) else Whole(node)
    dims = list(axes.dims)
    dims[number] = dim(node.shape[number])
    return Local(node, axes.with_dims(dims))


@dataclass(frozen=True)
class Scattered(Rule):
    """Every ``step``-th position along a dimension, from ``first`` on, overwritten.

    Parameters
    ----------
    number
        The dimension.
    first, stop, step
        Of the slice that is overwritten.
    """

    number: int
    first: int
    stop: int
    step: int

    @cached_property
    def _tensors(self) -> tuple[Axes, Axes]:
        """Axes of the tensor and of what is written into it; either may be a constant."""
        found = iter(self.node.operand_axes)
        rank = self.node.axes.rank
        tensors = (self.node.args[name] for name in ("self", "src"))
        return tuple(
            next(found) if isinstance(t, Ref) else Axes.uncut(t.shape, rank) for t in tensors
        )

    @cached_property
    def axes(self) -> Axes:
        shape, k = self.node.shape, self.number
        into, source = self._tensors
        beside = [self._beside(axes) for axes in (into, source)]
        bare = broadcast((*shape[:k], 1, *shape[k + 1 :]), beside, into.rank)
        axis = (*into.axes_of(k), *source.axes_of(k), None)[0]
        along = into.dims[k] if into.axes_of(k) else dim(shape[k], axis)
        return bare.with_dims([*bare.dims[:k], along, *bare.dims[k + 1 :]])

    def _beside(self, axes: Axes) -> Axes:
        return axes.with_dims([() if k == self.number else d for k, d in enumerate(axes.dims)])

    def gathers(self, operand: int, axis: int) -> bool:
        if self.node.operands[operand] != getattr(self.node.args["src"], "value", None):
            return super().gathers(operand, axis)
        source = self._tensors[1]
        if axis in source.axes_of(self.number):
            return axis not in self.axes.axes_of(self.number)
        return not aligned(self._beside(source), self._beside(self.axes))[axis]

    def need(self, operand: int, axis: int, span: Span) -> Span:
        source = self.node.operands[operand] == getattr(self.node.args["src"], "value", None)
        if source and axis in self.axes.axes_of(self.number):
            return self._reads(span)
        return super().need(operand, axis, span)

    def _reads(self, span: Span) -> Span:
        """Positions of what is written that fall into a span of the result."""
        return tuple(-((self.first - min(p, self.stop)) // self.step) for p in span)

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        args, (into, source) = self.node.bind(tensors, weights), self._tensors
        result = fitted(args["self"], into, self.axes, region).clone()
        written = fitted(args["src"], self._beside(source), self._beside(self.axes), region)
        axis = (*self.axes.axes_of(self.number), None)[0]
        start, stop = (0, self.node.shape[self.number]) if axis is None else region.spans[axis]
        low, high = (max(0, k) for k in self._reads((start, stop)))
        if low < high:
            if not source.axes_of(self.number):
                written = written.narrow(self.number, low, high - low)
            every = [slice(None)] * result.ndim
            first = self.first + low * self.step - start
            every[self.number] = slice(first, None, self.step)
            result[tuple(every)].narrow(self.number, 0, high - low).copy_(written)
        return result


@rule("slice_scatter")
def scattered(node: Node) -> Rule | None:
    """What an assignment to a slice becomes."""
    number = node.args["dim"] % len(node.shape)
    found = Scattered(node, number, *bounds(node, node.shape[number]))
    alone = all(len(axes.dims[number]) < 2 for axes in found._tensors)
    return found if alone and 0 not in found.axes.axes_of(number) else None


@dataclass(frozen=True)
class Concatenated(Rule):
    """Tensors one after another along an axis of the image.

    Parameters
    ----------
    number, axis
        The dimension, and the axis in it.
    """

    number: int
    axis: int

    @cached_property
    def axes(self) -> Axes:
        shape, k = self.node.shape, self.number
        hidden = [self._beside(axes) for axes in self.node.operand_axes]
        bare = broadcast((*shape[:k], 1, *shape[k + 1 :]), hidden, self.node.axes.rank)
        return bare.with_dims([*bare.dims[:k], dim(shape[k], self.axis), *bare.dims[k + 1 :]])

    def _beside(self, axes: Axes) -> Axes:
        """The dimensions beside the one along which the tensors lie."""
        return axes.with_dims([() if k == self.number else d for k, d in enumerate(axes.dims)])

    @cached_property
    def starts(self) -> list[int]:
        """Where each operand begins."""
        sizes = [shape[self.number] for shape in self.node.operand_shapes]
        return [sum(sizes[:k]) for k in range(len(sizes))]

    def gathers(self, operand: int, axis: int) -> bool:
        return axis != self.axis and super().gathers(operand, axis)

    def need(self, operand: int, axis: int, span: Span) -> Span:
        if axis != self.axis:
            return super().need(operand, axis, span)
        return (span[0] - self.starts[operand], span[1] - self.starts[operand])

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        start, stop = region.spans[self.axis]
        sizes = (shape[self.number] for shape in self.node.operand_shapes)
        parts = zip(tensors, self.node.operand_axes, self.starts, sizes, strict=True)
        pieces = [
            fitted(tensor, self._beside(axes), self._beside(self.axes), region)
            for tensor, axes, first, n in parts
            if first < stop and start < first + n
        ]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, self.number)


@rule("cat", "concat", "concatenate")
def joined(node: Node) -> Rule | None:
    """Tensors one after another, along channels or along space."""
    number = node.args["dim"] % len(node.shape)
    operands = node.operand_axes
    if any(len(axes.dims) != len(node.shape) for axes in operands):
        return None  # PyTorch skips empty tensors of one dimension
    found = {axis for axes in operands for axis in axes.axes_of(number)}
    if not found:
        return Joined(node, number)
    if 0 in found:
        return None
    alone = all(len(axes.dims[number]) == len(axes.axes_of(number)) <= 1 for axes in operands)
    if len(found) > 1 or not alone or node.weights:
        return Whole(node)
    return Concatenated(node, number, found.pop())


@dataclass(frozen=True)
class Taken(Strided):
    """A slice that stays where it is: each tile owns what it owned before.

    It is sent from there to whom it is needed, be it at the other end of the image.
    """

    pinned = True

    def own(self, tiling: Tiling) -> Spans:
        spans = list(tiling.spans(self.node.operand_axes[0].extent))
        inside = (self.first, self.first + self.node.shape[self.number])
        met = (meet(span, inside) for span in spans[self.axis])
        spans[self.axis] = tuple((a - self.first, max(a, b) - self.first) for a, b in met)
        return tuple(spans)


@rule("spnb.taken")
def taken(node: Node) -> Rule:
    """A part of a roll, or of the padding of a torus."""
    return Taken(node, node.args["dim"], node.args["start"], 1)


def rearranged(node: Node, pieces: dict[int, list[Span]]) -> list[Node]:
    """Calls that put pieces of an operand together anew, along one dimension after another.

    Parameters
    ----------
    pieces
        For each dimension the spans to take, in their new order.
    """
    nodes: list[Node] = []
    value, axes = node.args["self"], node.operand_axes[0]
    for number, spans in pieces.items():
        parts = []
        for start, stop in spans:
            args = {"self": value, "dim": number, "start": start, "stop": stop}
            name, sized = f"{node.name}.{len(nodes)}", axes.resized(number, stop - start)
            parts.append(replace(node, name=name, op="spnb.taken.default", args=args, axes=sized))
            parts[-1] = replace(parts[-1], operand_axes=(axes,))
            nodes.append(parts[-1])
        sized = axes.resized(number, sum(stop - start for start, stop in spans))
        args = {"tensors": [Ref(part.name) for part in parts], "dim": number}
        joint = replace(node, name=f"{node.name}.{len(nodes)}", op="aten.cat.default", args=args)
        nodes.append(replace(joint, axes=sized, operand_axes=tuple(p.axes for p in parts)))
        value, axes = Ref(nodes[-1].name), sized
    nodes[-1] = replace(nodes[-1], name=node.name)
    return nodes


@dataclass(frozen=True)
class Rolled(Whole):
    """Positions moved around a torus (torch.roll).

    Parameters
    ----------
    shifts
        By how many positions, for each dimension.
    """

    shifts: dict[int, int]

    def gathers(self, operand: int, axis: int) -> bool:
        """The first tile reads the end of the last one."""
        moved = (n for n, shift in self.shifts.items() if shift % self.axes.shape[n])
        return any(axis in self.axes.axes_of(number) for number in moved)

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        shifts = {n: shift for n, shift in self.shifts.items() if shift % self.axes.shape[n]}
        rolled = tensors[0].roll(list(shifts.values()), list(shifts)) if shifts else tensors[0]
        return self.axes.piece(rolled, self._held(region), region)

    def lower(self, tiling: Tiling) -> Sequence[Node]:
        """Both ends change places, each sent from the tile that has it."""
        pieces = {}
        for number, shift in self.shifts.items():
            n = self.node.shape[number]
            if k := shift % n:
                pieces[number] = [(n - k, n), (0, n - k)]
        alone = all(len(self.axes.dims[number]) == 1 for number in pieces)
        axes = [self.axes.axes_of(number) for number in pieces]
        cut = all(axes) and any(tiling.grid[a] > 1 for (a, *_) in axes)
        return rearranged(self.node, pieces) if alone and cut else (self.node,)


@rule("roll")
def rolled(node: Node) -> Rule | None:
    """Moved around a torus."""
    axes = node.operand_axes[0]
    numbers = [d % len(axes.dims) for d in node.args["dims"]]
    if not numbers or any(0 in axes.axes_of(n) for n in numbers):
        return None
    return Rolled(node, dict(zip(numbers, node.args["shifts"], strict=True)))


@dataclass(frozen=True)
class Flipped(Rule):
    """Positions in reversed order along some dimensions (torch.flip)."""

    @cached_property
    def turned(self) -> frozenset[int]:
        """The axes that are reversed."""
        axes = self.node.operand_axes[0]
        return frozenset(a for d in self.node.args["dims"] for a in axes.axes_of(d))

    def gathers(self, operand: int, axis: int) -> bool:
        return False

    def need(self, operand: int, axis: int, span: Span) -> Span:
        n = self.node.operand_axes[0].extent[axis]
        return (n - span[1], n - span[0]) if axis in self.turned else super().need(0, axis, span)

    def lower(self, tiling: Tiling) -> Sequence[Node]:
        """Each tile turns what it has; it is then sent to where it belongs."""
        turned = replace(self.node, name=f"{self.node.name}.0", op="spnb.flipped.default")
        args = {"self": Ref(turned.name)}
        moved = replace(self.node, op="aten.alias.default", args=args, operand_axes=(turned.axes,))
        return (turned, moved)


@dataclass(frozen=True)
class FlippedInPlace(Flipped):
    """The mirrored tile that each tile has at hand."""

    pinned = True

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
    """In reversed order, along channels or along space."""
    axes = node.operand_axes[0]
    factors = [axes.dims[d] for d in node.args["dims"]]
    if any(0 in axes_in(f) for f in factors):
        return None
    if not any(map(axes_in, factors)):
        return Local(node, axes)
    if any(len(f) > 1 for f in factors):
        return Whole(node)
    return FlippedInPlace(node) if node.op.startswith("spnb") else Flipped(node)
