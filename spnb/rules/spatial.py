"""Operators on the last dimensions of a tensor, each with an axis of the image."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F

from ..ir.axes import Axes, axes_in, dim
from ..ir.node import Node, Ref
from ..ir.region import Region, Span
from .base import Direct


def places(axes: Axes, count: int) -> tuple[int | None, ...] | None:
    """The axis of the image in each of the last dimensions; ``None`` if one holds several axes.

    A dimension of a single position gets the axis of its place in an image, since it may grow.
    """
    found: list[int | None] = []
    for number in range(len(axes.dims) - count, len(axes.dims)):
        factors = axes.dims[number]
        if len(factors) > 1:
            return None
        if factors:
            found.append(factors[0].axis)
            continue
        likely = axes.rank - len(axes.dims) + number
        taken = {*axes.present, *(a for a in found if a is not None)}
        found.append(None if likely < 1 or likely in taken else likely)
    return tuple(found)


@dataclass(frozen=True)
class Spatial(Direct, ABC):
    """An operator on the last dimensions of its first operand, each with an axis of its own.

    Parameters
    ----------
    places
        The axis of the image in each of these dimensions; None where it is never cut.
    """

    places: tuple[int | None, ...]

    @cached_property
    def axes(self) -> Axes:
        operand, shape = self.node.operand_axes[0], self.node.shape
        before = len(shape) - len(self.places)
        sizes = zip(shape[before:], self.places, strict=True)
        dims = [*operand.dims[:before], *(dim(n, axis) for n, axis in sizes)]
        if before:
            channels = dims[before - 1]
            dims[before - 1] = channels if axes_in(channels) else dim(shape[before - 1])
        return operand.with_dims(dims)

    def need(self, operand: int, axis: int, span: Span) -> Span:
        if operand == 0 and axis in self.places:
            return self.reads(self.places.index(axis), span)
        return super().need(operand, axis, span)

    @abstractmethod
    def reads(self, number: int, span: Span) -> Span:
        """Span of a spatial dimension, not clipped, that a span of the result reads."""

    def sizes(self) -> tuple[int, ...]:
        """Sizes of the operand's spatial dimensions."""
        return self.node.operand_shapes[0][-len(self.places) :]

    def result_sizes(self) -> tuple[int, ...]:
        """Sizes of the result's spatial dimensions."""
        return self.node.shape[-len(self.places) :]

    def spans(self, region: Region) -> list[Span]:
        """The wanted span of each spatial dimension of the result."""
        return [
            (0, n) if axis is None else region.spans[axis]
            for n, axis in zip(self.result_sizes(), self.places, strict=True)
        ]

    def needed(self, region: Region) -> list[Span]:
        """The span of each spatial dimension, not clipped, that a region of the result reads."""
        return [self.reads(k, span) for k, span in enumerate(self.spans(region))]


def without_unread(x: torch.Tensor, spans: Sequence[Span], sizes: Sequence[int]) -> torch.Tensor:
    """Cut dimensions of one position from an operand, if a region reads only their padding.

    A dimension of one position has no axis, so the plan does not cut it.
    """
    for number, ((a, b), n) in enumerate(zip(clipped(spans, sizes), sizes, strict=True)):
        if n == 1 and a == b:
            x = x.narrow(number - len(sizes), 0, 0)
    return x


def clipped(spans: Sequence[Span], sizes: Sequence[int]) -> list[Span]:
    """Spans inside dimensions of these sizes."""
    return [
        (min(max(a, 0), n), max(min(max(a, 0), n), min(b, n)))
        for (a, b), n in zip(spans, sizes, strict=True)
    ]


def margins(spans: Sequence[Span], sizes: Sequence[int]) -> list[tuple[int, int]]:
    """By how many positions spans run past dimensions of these sizes, before and after."""
    return [
        (max(0, min(-a, b - a)), max(0, min(b - n, b - a)))
        for (a, b), n in zip(spans, sizes, strict=True)
    ]


def pad(x: torch.Tensor, around: Sequence[tuple[int, int]], fill: float) -> torch.Tensor:
    """Pad the last dimensions by (before, after); copy nothing if no padding is needed."""
    if not any(map(any, around)):
        return x
    return F.pad(x, [n for margin in reversed(around) for n in margin], value=fill)


class Padded:
    """Pads tensors of one size, always in the same way; in given memory, if there is any.

    Parameters
    ----------
    around
        Numbers of positions before and after each of the last dimensions.
    fill
        Value of the padding.
    whole
        Memory of the padded tensor; it may hold another tensor between two calls.
    """

    def __init__(
        self, around: Sequence[tuple[int, int]], fill: float, whole: torch.Tensor | None = None
    ):
        self.around, self.fill, self.whole = list(around), fill, whole
        if whole is None:
            return
        self.strips, self.inner = [], whole
        for number, (low, high) in enumerate(self.around):
            at = number - len(self.around)
            n = self.inner.shape[at]
            strips = ((0, low), (n - high, high))
            self.strips += [self.inner.narrow(at, *strip) for strip in strips if strip[1]]
            self.inner = self.inner.narrow(at, low, n - low - high)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The padded tensor."""
        if self.whole is None:
            return pad(x, self.around, self.fill)
        for strip in self.strips:
            strip.fill_(self.fill)
        self.inner.copy_(x)
        return self.whole


def per_dim(value: int | Sequence[int], count: int) -> tuple[int, ...]:
    """One number for each of some dimensions."""
    numbers = [value] if isinstance(value, int) else list(value)
    return tuple(numbers * count if len(numbers) == 1 else numbers)


def window_counts(sizes: Sequence[int], *windows: Sequence[int]) -> tuple[int, ...]:
    """Number of windows of a kernel, stride, dilation and padding along dimensions of these sizes.

    >>> window_counts((7,), (3,), (2,), (1,), (1,))
    (4,)
    """
    numbers = zip(sizes, *windows, strict=True)
    return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, d, p in numbers)


def filter_axes(node: Node) -> Axes | None:
    """The axes of a convolution's weight, which may be computed.

    Returns
    -------
    Axes or None
        None for a computed weight with more positions than the operand: no tile can hold it whole.
    """
    weight = node.args["weight"]
    if not isinstance(weight, Ref):
        return Axes.uncut(weight.shape, node.axes.rank)
    axes = node.operand_axes[node.operands.index(weight.value)]
    large = math.prod(axes.extent[1:]) > math.prod(node.operand_axes[0].extent[1:])
    return None if large else axes


class HoldsFilter(Spatial):
    """An operator whose weight and bias may be computed; each tile then reads them whole."""

    def gathers(self, operand: int, axis: int) -> bool:
        return axis == 0 and self.of_filter(operand)

    def need(self, operand: int, axis: int, span: Span) -> Span:
        if self.of_filter(operand):
            return (0, self.node.operand_axes[operand].extent[axis])
        return super().need(operand, axis, span)

    def of_filter(self, operand: int) -> bool:
        """Whether an operand is the weight or the bias."""
        value = Ref(self.node.operands[operand])
        return operand > 0 and value in (self.node.args["weight"], self.node.args["bias"])
