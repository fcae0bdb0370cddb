"""Slices of channels and of space: read (slice, select, index) and written (slice_scatter)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..ir.axes import Axes, dim
from ..ir.broadcasting import aligned, fitted, joined_along
from ..ir.node import Node, Ref, Weight
from ..ir.region import Region, Span
from .along_batch import along_batch
from .base import Direct, Local, Rule, Tensors, Weights
from .elementwise import uncut
from .fallback import Whole
from .lookups import row_lookup
from .registry import rule


def bounds(node: Node, n: int) -> tuple[int, int, int]:
    """First position, end and step of a slice of a dimension of size ``n``."""
    args = node.args
    if node.kind == "narrow":
        start = args["start"] % n if n else 0
        return start, start + args["length"], 1
    return slice(args.get("start"), args.get("end"), args.get("step", 1)).indices(n)


@dataclass(frozen=True)
class Strided(Direct):
    """Every ``step``-th position along an axis, beginning with ``first``.

    Parameters
    ----------
    number
        The dimension.
    first, step
        Of the slice.
    """

    any_layout = True

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
        if len(dims) > len(self.node.shape):  # select removes the dimension
            del dims[self.number]
        else:
            dims[self.number] = dim(self.node.shape[self.number], self.axis)
        return self.node.operand_axes[0].with_dims(dims)

    def need(self, operand: int, axis: int, span: Span) -> Span:
        if axis != self.axis:
            return super().need(operand, axis, span)
        return (self.first + span[0] * self.step, self.first + (span[1] - 1) * self.step + 1)

    def place(self, region: Region) -> Hashable:
        return ()

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
    """The rule of a slice, of channels or of space."""
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
    if 0 in axes.axes_of(number):  # a slice of the batch is another one in each micro-batch
        return Local(node, axes) if node.shape == axes.shape else along_batch(node, number)
    return Strided(node, number, first, step)


@rule("index", "index_select")
def indexed(node: Node) -> Rule | None:
    """The rule of indexing, where constants or buffers of the network say which channels."""
    axes, indices = node.operand_axes[0], node.args.get("indices")
    if isinstance(node.args["self"], Weight):
        return row_lookup(node) if indices is not None else None
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
    """An operand in which every ``step``-th position along a dimension is overwritten.

    Parameters
    ----------
    number
        The dimension.
    first, stop, step
        The slice that is overwritten.
    """

    any_layout = True

    number: int
    first: int
    stop: int
    step: int

    @cached_property
    def _tensors(self) -> tuple[Axes, Axes]:
        """Axes of the tensor, and of the source written into it; either may be a constant."""
        found = iter(self.node.operand_axes)
        rank = self.node.axes.rank
        into, source = (
            next(found) if isinstance(t, Ref) else Axes.uncut(t.shape, rank)
            for t in (self.node.args["self"], self.node.args["src"])
        )
        return into, source

    @cached_property
    def axes(self) -> Axes:
        shape, k = self.node.shape, self.number
        into, source = self._tensors
        axis = (*into.axes_of(k), *source.axes_of(k), None)[0]
        along = into.dims[k] if into.axes_of(k) else dim(shape[k], axis)
        return joined_along(k, along, shape, (into, source), into.rank)

    def gathers(self, operand: int, axis: int) -> bool:
        if self.node.operands[operand] != getattr(self.node.args["src"], "value", None):
            return super().gathers(operand, axis)
        source = self._tensors[1]
        if axis in source.axes_of(self.number):
            return axis not in self.axes.axes_of(self.number)
        beside = (source.without(self.number), self.axes.without(self.number))
        return not aligned(*beside)[axis]

    def need(self, operand: int, axis: int, span: Span) -> Span:
        source = self.node.operands[operand] == getattr(self.node.args["src"], "value", None)
        if source and axis in self.axes.axes_of(self.number):
            return self._reads(span)
        return super().need(operand, axis, span)

    def _reads(self, span: Span) -> Span:
        """Positions of the source that are written into a span of the result."""
        first, last = (-((self.first - min(p, self.stop)) // self.step) for p in span)
        return first, last

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        args, (into, source) = self.node.bind(tensors, weights), self._tensors
        result = fitted(args["self"], into, self.axes, region).clone()
        beside = (source.without(self.number), self.axes.without(self.number))
        written = fitted(args["src"], *beside, region)
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
    """The rule of slice_scatter, to which capture turns an assignment to a slice."""
    number = node.args["dim"] % len(node.shape)
    found = Scattered(node, number, *bounds(node, node.shape[number]))
    one_factor = all(len(axes.dims[number]) < 2 for axes in found._tensors)
    return found if one_factor and 0 not in found.axes.axes_of(number) else None
