"""Operators that slide a window over space: convolution, unfolding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from ..ir.axes import Axes, axes_in, dim, is_image
from ..ir.cost import CORE
from ..ir.node import Node, Ref
from ..ir.region import Region, Span, length
from .base import Call, CoreAndBoundary, Rule, Tensors, Weights
from .calls import caller
from .fallback import Whole
from .registry import rule
from .spatial import Padded, Spatial, margins, per_dim, places, uncut_weight, window_counts


@dataclass(frozen=True)
class Window(Spatial):
    """An operator that slides a window over its first operand.

    Parameters
    ----------
    kernel, stride, dilation, padding
        One number for each spatial dimension; ``padding`` is that before the first position.
    fill
        What the padding holds.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[int, ...]
    fill: float = 0.0

    def reads(self, number: int, span: Span) -> Span:
        k, s = self.kernel[number], self.stride[number]
        d, p = self.dilation[number], self.padding[number]
        return (span[0] * s - p, (span[1] - 1) * s - p + d * (k - 1) + 1)

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        return self._over(tensors[0].shape[-len(self.places) :], region, weights)(*tensors)

    def scratch(self, given: Region, region: Region) -> tuple[Axes, Region] | None:
        axes, spans = self.node.operand_axes[0], list(given.spans)
        _, around = self._margins(self._sizes(given), region)
        if not any(map(any, around)) or not is_image(axes) or 1 in self.sizes():
            return None  # a single position is no axis of an image that could grow
        for axis, (low, high) in zip(self.places, around, strict=True):
            if axis is None:
                return None
            start, stop = spans[axis]
            spans[axis] = (start - low, stop + high)
        return axes, Region(tuple(spans))

    def bound(
        self,
        given: Sequence[Region],
        needs: Sequence[Region],
        region: Region,
        weights: Weights,
        scratch: torch.Tensor | None = None,
    ) -> Call:
        return self._over(self._sizes(given[0]), region, weights, scratch)

    def _sizes(self, given: Region) -> tuple[int, ...]:
        """Sizes of a part of the first operand along its spatial dimensions."""
        return self.node.operand_axes[0].local_shape(given)[-len(self.places) :]

    def _over(
        self,
        sizes: Sequence[int],
        region: Region,
        weights: Weights,
        scratch: torch.Tensor | None = None,
    ) -> Call:
        """The operator on a first operand of these sizes, for a region of the result.

        The operand may be longer, after the last window, by less than a stride.
        """
        native, around = self._margins(sizes, region)
        call = self.sliding(native, region, weights)
        if not any(map(any, around)):
            return call
        padded = Padded(around, self.fill, scratch)
        return lambda x, *more, **where: call(padded(x), *more, **where)

    def _margins(
        self, sizes: Sequence[int], region: Region
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """Padding that the operator adds itself on both sides, and what is to be added before."""
        around, native = margins(self.needed(region), self.sizes()), []
        for number, (start, stop) in enumerate(self.spans(region)):
            # The operator pads both sides for itself, with no copy, where it may: where they are
            # alike, or no window reaches what is added after the last.
            low, high = around[number]
            counts = {self.count(number, sizes[number] + low + end) for end in (low, high)}
            enough = sizes[number] >= self.least(number)
            alike = low >= high and enough and counts == {stop - start}
            native.append(low if alike else 0)
            around[number] = (0, 0) if alike else (low, high)
        return native, around

    def count(self, number: int, size: int) -> int:
        """Windows along a spatial dimension of this size, its padding included."""
        reach = self.dilation[number] * (self.kernel[number] - 1)
        return (size - reach - 1) // self.stride[number] + 1

    def least(self, number: int) -> int:
        """Positions along a spatial dimension that the operator must be given, padding aside."""
        return 1

    def sliding(self, padding: list[int], region: Region | None, weights: Weights) -> Call:
        """The operator on an operand that is padded but for a symmetric ``padding``."""
        return caller(self.node, weights, padding=padding)

    def left_over(self, held: Region, clipped: Region) -> Region:
        """The region of the first operand that may be handed over in place of its need.

        A stride leaves over what lies after the last window, which need not be cut off then.
        """
        spans = list(clipped.spans)
        for number, axis in enumerate(self.places):
            if axis is not None:
                start, stop = spans[axis]
                reach = stop + self.stride[number] - 1
                spans[axis] = (start, max(stop, min(reach, held.spans[axis][1])))
        return Region(tuple(spans))


@dataclass(frozen=True)
class CoreFirst(Window):
    """A window that may slide over what is here, as if that were all, and over the rest later."""

    allocates = True

    def core_and_boundary(self, own: Region, region: Region) -> CoreAndBoundary | None:
        if own.empty or own.spans[0] != region.spans[0]:
            return None
        padding, wrong, right = [], [], region
        for number, (start, stop) in enumerate(self.spans(region)):
            axis, n = self.places[number], self.sizes()[number]
            s, p = self.stride[number], self.padding[number]
            low, high = (0, n) if axis is None else own.spans[axis]
            padding.append(low - (start * s - p))
            count = self.count(number, high - low + 2 * padding[-1])
            first = start if low == 0 else max(start, -(-(low + p) // s))
            last = stop if high == n else min(stop, self.count(number, high + p))
            if padding[-1] < 0 or count != stop - start or first >= last:
                return None
            if axis is not None:
                strips = ((start, first), (last, stop))
                wrong += [right.along(axis, strip) for strip in strips if length(strip)]
                right = right.along(axis, (first, last))
        return CoreAndBoundary(padding, wrong) if self._pays(own, wrong) else None

    def _pays(self, own: Region, wrong: Sequence[Region]) -> bool:
        """Whether to compute strips anew takes less than to move the tile for their sake."""
        share = sum(strip.size for strip in wrong) / math.prod(self.node.axes.extent)
        anew = len(wrong) * CORE.launch + share * self.node.flops / CORE.flops
        moved = 2 * own.size * self.node.operand_axes[0].channels * self.node.dtype.itemsize
        return anew < CORE.latency + moved / CORE.memory

    def bound_core(self, split: CoreAndBoundary, weights: Weights) -> Call:
        return self.sliding(split.padding, None, weights)


@dataclass(frozen=True)
class Convolution(CoreFirst):
    """Convolution; the overload with a padding word is run as the one with numbers."""

    any_layout = True

    def sliding(self, padding: list[int], region: Region | None, weights: Weights) -> Call:
        return caller(self.node, weights, f"aten.{self.node.kind}.default", padding=padding)


@dataclass(frozen=True)
class Columns(Window):
    """Unfolding: each window becomes a column (torch.nn.functional.unfold)."""

    @cached_property
    def axes(self) -> Axes:
        operand, shape = self.node.operand_axes[0], self.node.shape
        counts = zip(self.result_sizes(), self.places, strict=True)
        columns = tuple(factor for n, axis in counts for factor in dim(n, axis))
        return operand.with_dims([*operand.dims[:-3], dim(shape[-2]), columns])

    def result_sizes(self) -> tuple[int, ...]:
        windows = (self.kernel, self.stride, self.dilation, self.padding)
        return window_counts(self.sizes(), *windows)


@dataclass(frozen=True)
class Sliding(Window):
    """Windows along one dimension, each a new last dimension (torch.Tensor.unfold)."""

    number: int = 0

    @cached_property
    def axes(self) -> Axes:
        operand, shape = self.node.operand_axes[0], self.node.shape
        dims = [*operand.dims, dim(shape[-1])]
        dims[self.number] = dim(shape[self.number], self.places[0])
        return operand.with_dims(dims)

    def sizes(self) -> tuple[int, ...]:
        return (self.node.operand_shapes[0][self.number],)

    def result_sizes(self) -> tuple[int, ...]:
        return (self.node.shape[self.number],)

    def bound(
        self,
        given: Sequence[Region],
        needs: Sequence[Region],
        region: Region,
        weights: Weights,
        scratch: torch.Tensor | None = None,
    ) -> Call:
        return Spatial.bound(self, given, needs, region, weights)

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        return Spatial.apply(self, tensors, needs, region, weights)


@rule("conv1d", "conv2d", "conv3d")
def convolution(node: Node) -> Rule | None:
    """Zero padding before and after; ``"same"`` puts the odd one after (torch.nn.Conv2d)."""
    shape, operand = uncut_weight(node, "weight"), node.operand_axes[0]
    count = len(node.args["stride"]) if shape is None else len(shape) - 2
    where = places(operand, count)
    if not isinstance(node.args["input"], Ref) or shape is None:
        return None
    if where is None or axes_in(operand.dims[-count - 1]):
        return Whole(node)
    kernel = shape[2:]
    dilation = per_dim(node.args["dilation"], count)
    padding = node.args["padding"]
    if padding == "same":
        padding = tuple(d * (k - 1) // 2 for d, k in zip(dilation, kernel, strict=True))
    elif padding == "valid":
        padding = 0
    stride = per_dim(node.args["stride"], count)
    return Convolution(node, where, kernel, stride, dilation, per_dim(padding, count))


@rule("im2col")
def columns(node: Node) -> Rule | None:
    """Windows as columns, over zeros where they leave the image."""
    operand = node.operand_axes[0]
    where = places(operand, 2)
    if where is None or axes_in(operand.dims[-3]):
        return Whole(node)
    kernel, stride, dilation, padding = (
        per_dim(node.args[name], 2) for name in ("kernel_size", "stride", "dilation", "padding")
    )
    return Columns(node, where, kernel, stride, dilation, padding)


@rule("unfold")
def sliding(node: Node) -> Rule | None:
    """Windows along one dimension, without padding."""
    operand = node.operand_axes[0]
    number = node.args["dimension"] % len(operand.dims)
    found = axes_in(operand.dims[number])
    if len(found) != 1 or len(operand.dims[number]) != 1 or found == (0,):
        return Whole(node) if number else None
    return Sliding(
        node, found, (node.args["size"],), (node.args["step"],), (1,), (0,), number=number
    )
