"""Means and maxima over runs of tokens that begin and end within rows of the image.

Tokens are the positions of an image, row after row.  If a run of them is no rectangle, most tiles
hold parts of many runs.  Each tile adds up its part of each, and these sums are merged; so are
the largest numbers::

    columns  0 1 2│3 4 5          runs of 4 tokens: the first is row 0, columns 0 to 3
    tile 0   a a a│a b b          its sums: a 3, b 3, …   and of tile 1: a 1, b 3, …
             b b c│c c c

Every tile holds the results of all runs, as many as a run is shorter than the image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F

from ...ir.axes import Axes, dim
from ...ir.node import Node
from ...ir.region import Region
from ...ir.tiling import Tiling
from ...kernels.sum_types import precise
from ..base import Direct, Tensors, Weights
from ..positions import numbers_of
from ..registry import rule
from .merging import Partial, combined, cut_axes, finished, of_each_tile

MEAN = "avg_pool1d"
"""The kind of the calls that take means; others take the largest numbers."""


@dataclass(frozen=True)
class TokenPool(Direct):
    """Means or maxima over runs of tokens beside each other (torch.nn.AvgPool1d, MaxPool1d)."""

    @cached_property
    def axes(self) -> Axes:
        operand = self.node.operand_axes[0]
        return operand.with_dims([*operand.dims[:-1], dim(self.node.shape[-1])])

    def gathers(self, operand: int, axis: int) -> bool:
        return axis in self.node.operand_axes[0].axes_of(-1)

    def need(self, operand: int, axis: int, span: tuple[int, int]) -> tuple[int, int]:
        whole = (0, self.node.operand_axes[0].extent[axis])
        return whole if self.gathers(operand, axis) else span

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        pool = F.avg_pool1d if self.node.kind == MEAN else F.max_pool1d
        return pool(tensors[0], self.node.args["length"])

    def lower(self, tiling: Tiling) -> Sequence[Node]:
        """Each tile adds up its part of each run, or takes the largest number of it."""
        node, axes = self.node, self.node.operand_axes[0]
        number = len(axes.dims) - 1
        cut = cut_axes(axes, [number], tiling)
        if not cut:
            return (node,)
        statistic, kind = ("sum", "sum") if node.kind == MEAN else ("largest", "amax")
        op, args = f"spnb.partial_token_pool.{node.kind}", {**node.args, "count": node.shape[-1]}
        pools = replace(node, op=op, args=args | {"kind": statistic}, dtype=precise(node.dtype))
        first = of_each_tile(pools, PartialTokenPool, [number], tiling)
        merged = combined(node, first, cut, statistic)
        return [first, *merged, finished(node, merged[-1], kind, 1, [number])]


rule("spnb.avg_pool1d", "spnb.max_pool1d")(TokenPool)


@dataclass(frozen=True)
class PartialTokenPool(Partial):
    """The share of each tile in the mean of each run, or the largest of its numbers in it."""

    @cached_property
    def axes(self) -> Axes:
        return self.of_parts.with_dims([*self.of_parts.dims, dim(self.node.args["count"]), ()])

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        x, length, count = tensors[0], self.node.args["length"], self.node.args["count"]
        axes = self.node.operand_axes[0]
        numbers = numbers_of(axes.dims[-1], needs[0] & Region.whole(axes.extent)) // length
        runs = numbers.clamp(max=count).to(x.device)  # the last one has tokens that are left over
        shape = (*x.shape[:-1], count + 1)
        if self.node.args["kind"] == "sum":
            sums = torch.zeros(shape, dtype=self.node.dtype, device=x.device)
            found = sums.index_add(-1, runs, x.to(self.node.dtype) / length)
        else:
            none = torch.full(shape, -math.inf, dtype=self.node.dtype, device=x.device)
            found = none.scatter_reduce(-1, runs.expand(x.shape), x.to(self.node.dtype), "amax")
        return found[..., :count].reshape(self.axes.local_shape(region))


rule("spnb.partial_token_pool")(PartialTokenPool)
