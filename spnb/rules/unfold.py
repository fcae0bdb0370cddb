"""Unfolding: the windows of an operand as columns, or as a new dimension."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from ..ir.axes import Axes, axes_in, dim
from ..ir.node import Node
from ..ir.region import Region
from .base import Call, Rule, Tensors, Weights
from .fallback import Whole
from .registry import rule
from .spatial import Spatial, per_dim, places, window_counts
from .windows import Window


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
    """Windows along one dimension; their positions are a new last dimension (Tensor.unfold)."""

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


@rule("im2col")
def columns(node: Node) -> Rule | None:
    """The rule of unfold; windows read zeros outside the image."""
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
    """The rule of Tensor.unfold: windows along one dimension, without padding."""
    operand = node.operand_axes[0]
    number = node.args["dimension"] % len(operand.dims)
    found = axes_in(operand.dims[number])
    if len(found) != 1 or len(operand.dims[number]) != 1 or found == (0,):
        return Whole(node) if number else None
    return Sliding(
        node, found, (node.args["size"],), (node.args["step"],), (1,), (0,), number=number
    )
