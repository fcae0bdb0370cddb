"""Operators that spread every position over a window: transposed convolution, folding.

Position ``i`` of the operand reaches ``[i*stride - padding, ... + dilation*(kernel-1) + 1)`` of the
result, so ``[o0, o1)`` of the result reads, on each axis, ::

    ceil((o0 + padding - dilation*(kernel-1)) / stride)  ...  floor((o1 - 1 + padding) / stride) + 1
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F

from ..ir.axes import Axes, axes_in, dim, size_of
from ..ir.node import Node, Ref
from ..ir.region import Region, Span
from .base import Rule, Tensors, Weights
from .calls import invoke
from .fallback import Whole
from .registry import rule
from .spatial import HoldsFilter, Spatial, clipped, filter_axes, per_dim, places, window_counts


@dataclass(frozen=True)
class Spread(Spatial):
    """An operator that spreads positions over windows, and adds windows where they overlap.

    Parameters
    ----------
    kernel, stride, dilation, padding
        One number for each spatial dimension.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[int, ...]

    def reads(self, number: int, span: Span) -> Span:
        k, s = self.kernel[number], self.stride[number]
        d, p = self.dilation[number], self.padding[number]
        start = -((d * (k - 1) - span[0] - p) // s)
        return (start, max(start, (span[1] - 1 + p) // s + 1))

    def place(self, region: Region) -> Hashable:
        pairs = zip(self.spans(region), self.stride, strict=True)
        return tuple(start % step for (start, _), step in pairs)

    def trimmed(self, spread: torch.Tensor, region: Region) -> torch.Tensor:
        """The region, cut out of the windows of all operand positions; zero outside them."""
        held = clipped(self.needed(region), self.sizes())
        around = []
        for number, ((first, _), (a, b)) in enumerate(zip(held, self.spans(region), strict=True)):
            start = first * self.stride[number] - self.padding[number]
            stop = start + spread.shape[number - len(held)]
            around.append((start - a, b - stop))
        return F.pad(spread, [n for margin in reversed(around) for n in margin])


@dataclass(frozen=True)
class TransposedConvolution(HoldsFilter, Spread):
    """Transposed convolution; no window reaches the positions that output_padding adds."""

    any_layout = True

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        args = self.node.bind(tensors, weights)
        bias, zeros = args["bias"], [0] * len(self.places)
        held = clipped(self.needed(region), self.sizes())
        if any(a == b for a, b in held):  # no window reaches here
            shape = self.axes.local_shape(region)
            result = args["input"].new_zeros(shape)
        else:
            plain = {"bias": None, "padding": zeros, "output_padding": zeros}
            result = self.trimmed(invoke(self.node.op, args | plain), region)
        return result if bias is None else result + bias.reshape(-1, *[1] * len(zeros))


@dataclass(frozen=True)
class Fold(Spread):
    """Folding: each column is added to the positions of its window (torch.nn.functional.fold)."""

    counts: tuple[int, ...] = ()

    @cached_property
    def axes(self) -> Axes:
        operand, shape = self.node.operand_axes[0], self.node.shape
        space = [dim(n, a) for n, a in zip(shape[-2:], self.places, strict=True)]
        return operand.with_dims([*operand.dims[:-2], dim(shape[-3]), *space])

    def sizes(self) -> tuple[int, ...]:
        return self.counts

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        held = clipped(self.needed(region), self.counts)
        counts = [b - a for a, b in held]
        if not all(counts):
            return tensors[0].new_zeros(self.axes.local_shape(region))
        numbers = zip(counts, self.kernel, self.stride, self.dilation, strict=True)
        size = [(n - 1) * s + d * (k - 1) + 1 for n, k, s, d in numbers]
        args = self.node.bind(tensors, weights) | {"output_size": size, "padding": [0, 0]}
        return self.trimmed(invoke(self.node.op, args), region)


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def transposed_convolution(node: Node) -> Rule | None:
    """The rule of transposed convolution: each position times the kernel is added to the result."""
    weight, operand = filter_axes(node), node.operand_axes[0]
    if weight is None or not isinstance(node.args["input"], Ref):
        return None
    count = len(weight.shape) - 2
    where = places(operand, count)
    if where is None or axes_in(operand.dims[-count - 1]):
        return Whole(node)
    names = ("stride", "dilation", "padding")
    stride, dilation, padding = (per_dim(node.args[name], count) for name in names)
    return TransposedConvolution(node, where, weight.shape[2:], stride, dilation, padding)


@rule("col2im")
def fold(node: Node) -> Rule | None:
    """The rule of folding: columns, one per window in row-major order, become an image."""
    names = ("kernel_size", "stride", "dilation", "padding")
    kernel, stride, dilation, padding = (per_dim(node.args[name], 2) for name in names)
    counts = window_counts(node.args["output_size"], kernel, stride, dilation, padding)
    columns = node.operand_axes[0].dims[-1]
    if tuple(map(size_of, ((f,) for f in columns))) != counts or len(axes_in(columns)) != 2:
        return Whole(node)
    return Fold(node, axes_in(columns), kernel, stride, dilation, padding, counts)
