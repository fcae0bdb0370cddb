"""Operators that slide a window over space: convolution, pooling, padding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from ..node import Node, Weight, extent_of, invoke
from ..region import Region, Span
from .base import Rule, Tensors, Weights, rule
from .whole import Whole


@dataclass(frozen=True)
class Window(Rule):
    """An operator that slides a window over its first operand.

    Parameters
    ----------
    kernel, stride, dilation, padding
        One number for each spatial axis; ``padding`` is that before the first position.
    fill
        What the padding holds.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[int, ...]
    fill: float = 0.0

    def need(self, operand: int, axis: int, span: Span) -> Span:
        if axis == 0:
            return span
        k, s, d, p = (w[axis - 1] for w in (self.kernel, self.stride, self.dilation, self.padding))
        return (span[0] * s - p, (span[1] - 1) * s - p + d * (k - 1) + 1)

    def margins(self, need: Region) -> list[tuple[int, int]]:
        """How far a need runs past the operand's extent, before and after, on each spatial axis."""
        extent = extent_of(self.node.operand_shapes[0])
        return [
            (max(0, min(-a, b - a)), max(0, min(b - n, b - a)))
            for (a, b), n in zip(need.spans[1:], extent[1:], strict=True)
        ]

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        margins = self.margins(needs[0])
        # The operator pads for itself where both sides ask for the same: no copy.
        native = [low if low == high else 0 for low, high in margins]
        rest = [(0, 0) if low == high else (low, high) for low, high in margins]
        x = pad(tensors[0], rest, self.fill)
        return self.slide(self.node.bind([x, *tensors[1:]], weights), native, region)

    def slide(self, args: dict[str, Any], padding: list[int], region: Region) -> Any:
        """Run the operator on an operand that is padded but for a symmetric ``padding``."""
        return invoke(self.node.op, args | {"padding": padding})


def pad(x: torch.Tensor, margins: Sequence[tuple[int, int]], fill: float) -> torch.Tensor:
    """Pad the spatial axes by (before, after); no copy where nothing is to be added."""
    if not any(map(any, margins)):
        return x
    return F.pad(x, [n for margin in reversed(margins) for n in margin], value=fill)


@dataclass(frozen=True)
class MaxPool(Window):
    """Max pooling: with ceil_mode the last window may run past the padding, onto ``-inf``."""

    fill: float = -math.inf

    def slide(self, args: dict[str, Any], padding: list[int], region: Region) -> Any:
        return invoke(self.node.op, args | {"padding": padding, "ceil_mode": False})


@dataclass(frozen=True)
class AvgPool(Window):
    """Average pooling: at the border the divisor depends on where the window lies.

    PyTorch divides by the window's positions inside the image, or inside image and padding with
    ``count_include_pad``; positions that only ``ceil_mode`` reaches count in neither case.
    """

    def slide(self, args: dict[str, Any], padding: list[int], region: Region) -> Any:
        plain = {"padding": padding, "ceil_mode": False, "count_include_pad": True}
        if args.get("divisor_override"):
            return invoke(self.node.op, args | plain)
        mean = invoke(self.node.op, args | plain)
        extent = extent_of(self.node.operand_shapes[0])[1:]
        for axis, (span, n) in enumerate(zip(region.spans[1:], extent, strict=True)):
            k, s, p = self.kernel[axis], self.stride[axis], self.padding[axis]
            low, high = (-p, n + p) if args["count_include_pad"] else (0, n)
            first = torch.arange(*span, device=mean.device) * s - p
            counted = (first + k).clamp(max=high) - first.clamp(min=low)
            if not bool((counted == k).all()):
                shape = [1] * (2 + axis) + [-1] + [1] * (len(extent) - axis - 1)
                mean = mean * (k / counted.to(mean.dtype)).reshape(shape)
        return mean


def _per_axis(value: int | Sequence[int], axes: int) -> tuple[int, ...]:
    numbers = [value] if isinstance(value, int) else list(value)
    return tuple(numbers * axes if len(numbers) == 1 else numbers)


@rule("conv1d", "conv2d", "conv3d")
def convolution(node: Node) -> Rule | None:
    """Zero padding before and after; ``"same"`` puts the odd one after (torch.nn.Conv2d)."""
    if not isinstance(node.args["weight"], Weight):
        return None
    kernel = node.args["weight"].shape[2:]
    dilation = _per_axis(node.args["dilation"], len(kernel))
    padding = node.args["padding"]
    if padding == "same":
        padding = tuple(d * (k - 1) // 2 for d, k in zip(dilation, kernel, strict=True))
    elif padding == "valid":
        padding = 0
    stride = _per_axis(node.args["stride"], len(kernel))
    return Convolution(node, kernel, stride, dilation, _per_axis(padding, len(kernel)))


@dataclass(frozen=True)
class Convolution(Window):
    """Convolution; the overload with a padding word is run as the one with numbers."""

    def slide(self, args: dict[str, Any], padding: list[int], region: Region) -> Any:
        return invoke(f"aten.{self.node.kind}.default", args | {"padding": padding})


@rule("max_pool1d", "max_pool2d", "max_pool3d")
def max_pool(node: Node) -> Rule | None:
    """Windows over ``-inf`` where they leave the image."""
    return MaxPool(node, *_pool_window(node))


@rule("avg_pool1d", "avg_pool2d", "avg_pool3d")
def avg_pool(node: Node) -> Rule | None:
    """Windows over zeros, divided by what PyTorch counts."""
    return AvgPool(node, *_pool_window(node))


@rule("pad", "constant_pad_nd")
def padding(node: Node) -> Rule | None:
    """Constants around space and channels; a negative number crops (torch.nn.functional.pad)."""
    axes = len(node.shape) - 2
    if len(node.args["pad"]) > 2 * (axes + 1):
        return None
    if node.args.get("mode", "constant") != "constant":
        return Whole(node)
    around = (*node.args["pad"], *(0,) * (2 * (axes + 1) - len(node.args["pad"])))
    before = around[: 2 * axes : 2][::-1]
    ones = (1,) * axes
    return Pad(node, ones, ones, ones, before, node.args["value"] or 0.0, around[2 * axes :])


@dataclass(frozen=True)
class Pad(Window):
    """Padding as an operator of its own: a window of one position, moved by what lies before it."""

    channels: tuple[int, int] = (0, 0)

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        x = pad(tensors[0], self.margins(needs[0]), self.fill)
        spatial = [0] * (2 * (x.ndim - 2))
        return F.pad(x, [*spatial, *self.channels], value=self.fill) if any(self.channels) else x


def _pool_window(node: Node) -> tuple[tuple[int, ...], ...]:
    axes = len(node.shape) - 2
    kernel = _per_axis(node.args["kernel_size"], axes)
    stride = _per_axis(node.args["stride"] or kernel, axes)
    dilation = _per_axis(node.args.get("dilation", 1), axes)
    return kernel, stride, dilation, _per_axis(node.args["padding"], axes)
