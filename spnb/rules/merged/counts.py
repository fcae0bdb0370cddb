"""Counts of numbers in bins: each tile counts its own positions, and the counts are added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from ...ir.axes import Axes, dim
from ...ir.node import Node
from ...ir.region import Region, Span
from ...ir.tiling import Tiling
from ..base import Direct, Tensors, Weights
from ..registry import rule
from .merging import Partial, combined, cut_axes, finished, of_each_tile


def counted(x: torch.Tensor, args: Mapping[str, Any]) -> torch.Tensor:
    """The number of elements in each of some bins of equal width.

    ``args`` has their number, ``bins``, and their ends, ``low`` and ``high``.

    >>> counted(torch.tensor([0.5, 1.5, 1.6, 9.0]), {"bins": 2, "low": 0, "high": 2})
    tensor([1., 2.])
    """
    low, high = (end.item() if isinstance(end, torch.Tensor) else end for end in _ends(args))
    return torch.histc(x, args["bins"], low, high)


def _ends(args: Mapping[str, Any]) -> tuple[Any, Any]:
    return args["low"], args["high"]


@dataclass(frozen=True)
class Counts(Direct):
    """How many elements of all images lie in each bin (torch.histc)."""

    @cached_property
    def axes(self) -> Axes:
        return Axes.uncut((self.node.args["bins"],), self.node.axes.rank)

    def gathers(self, operand: int, axis: int) -> bool:
        return self.node.operand_axes[operand].extent[axis] > 1

    def need(self, operand: int, axis: int, span: Span) -> Span:
        return (0, self.node.operand_axes[operand].extent[axis])

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        args = self.node.bind(tensors, weights)
        return counted(args["self"], args)

    def lower(self, tiling: Tiling) -> Sequence[Node]:
        """Each tile counts its own elements; the counts are added along one axis after another."""
        node, axes = self.node, self.node.operand_axes[0]
        dims = list(range(len(axes.dims)))
        cut = cut_axes(axes, dims, tiling)
        if not cut:
            return (node,)
        counts = replace(node, op="spnb.partial_counts.default")
        first = of_each_tile(counts, PartialCounts, dims, tiling)
        merged = combined(node, first, cut, "sum")
        return [first, *merged, finished(node, merged[-1], "sum", 1, dims)]


rule("spnb.histc")(Counts)


@dataclass(frozen=True)
class PartialCounts(Partial):
    """The counts of each tile."""

    @cached_property
    def axes(self) -> Axes:
        return self.of_parts.with_dims([*self.of_parts.dims, dim(self.node.args["bins"]), ()])

    def need(self, operand: int, axis: int, span: Span) -> Span:
        return super().need(operand, axis, span) if operand == 0 else (0, 1)

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        args = self.node.bind(tensors, weights)
        return counted(args["self"], args).reshape(self.axes.local_shape(region))


rule("spnb.partial_counts")(PartialCounts)
