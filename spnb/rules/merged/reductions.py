"""Operators that reduce over space: each tile computes its share, and `merging` merges these."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from ...ir.axes import Axes
from ...ir.node import Node, Ref
from ...ir.tiling import Tiling
from ..base import Direct, Local, Rule
from ..fallback import AlongDimensions
from ..registry import rule
from .merging import cut_axes, finished, merged
from .statistics import NORMS, OF_IMAGES, order_of

EXACT = ("amax", "amin", "prod", "sum")
"""Reductions of whole numbers that are whole numbers, so that they are merged as such."""


def reduced_axes(axes: Axes, dims: Collection[int], keepdim: bool) -> Axes:
    """Axes after a reduction over some dimensions, which then have size 1, or are removed."""
    left = [() if k in dims else d for k, d in enumerate(axes.dims) if keepdim or k not in dims]
    return axes.with_dims(left)


@dataclass(frozen=True)
class Reduction(Direct):
    """A reduction over some dimensions.

    Parameters
    ----------
    kind
        A key of `REDUCTIONS`.
    dims
        The dimensions that are reduced.
    keepdim
        Whether the result has them too, with size 1.
    """

    kind: str
    dims: tuple[int, ...]
    keepdim: bool

    @cached_property
    def axes(self) -> Axes:
        return reduced_axes(self.node.operand_axes[0], self.dims, self.keepdim)

    def gathers(self, operand: int, axis: int) -> bool:
        axes = self.node.operand_axes[0]
        return any(axis in axes.axes_of(d) for d in self.dims)

    def lower(self, tiling: Tiling) -> Sequence[Node]:
        """Each tile computes its share; the shares are merged along one axis after another."""
        node, axes = self.node, self.node.operand_axes[0]
        if not cut_axes(axes, self.dims, tiling) or not self._merges:
            return (node,)
        operand, kind = Ref(node.operands[0]), self.kind
        if kind in OF_IMAGES and any(0 in axes.axes_of(d) for d in self.dims):
            kind = f"{kind} of images"
        nodes = merged(node, operand, axes, list(self.dims), kind, tiling)
        count = math.prod(axes.shape[d] for d in self.dims)
        gone = () if self.keepdim else self.dims
        return [*nodes, finished(node, nodes[-1], kind, count, gone)]

    @property
    def _merges(self) -> bool:
        if self.node.dtype.is_complex and self.kind == "mean":
            return True
        if not self.node.dtype.is_floating_point:
            return self.kind in EXACT and self.node.dtype != torch.bool
        order = order_of(self.node.args) if self.kind in ("norm", "linalg_vector_norm") else 1.0
        return 0.0 < order < math.inf


def over_last(node: Node, kind: str, count: int) -> Reduction:
    """The reduction over the last ``count`` dimensions, with ``keepdim``, that equals a call."""
    rank = len(node.shape)
    return Reduction(node, kind, tuple(range(rank - count, rank)), True)


@rule("amax", "amin", "linalg_vector_norm", "logsumexp", "mean", "norm", "prod", "std", "sum",
      "var")  # fmt: skip
def reduction(node: Node) -> Rule | None:
    """The rule of reductions: over channels at each position; over space tile by tile."""
    rank, dims = len(node.operand_axes[0].dims), node.args.get("dim")
    if dims is None or dims == []:
        dims = list(range(rank))
    dims = [dims] if isinstance(dims, int) else dims
    keepdim, kind = bool(node.args.get("keepdim")), node.kind
    if kind in ("norm", "linalg_vector_norm"):
        kind = NORMS.get(order_of(node.args), kind)
    return Reduction(node, kind, tuple(d % rank for d in dims), keepdim)


@rule("all", "any", "argmax", "argmin", "max", "min", "var_mean", "count_nonzero")
def reduction_without_merging(node: Node) -> Rule | None:
    """The rule of reductions that cannot be merged: over space they read the whole extent."""
    axes, dims = node.operand_axes[0], node.args.get("dim")
    if len(node.operands) > 1:
        return Rule(node)  # the larger of two tensors
    if dims is None or dims == []:
        return None
    gone = {d % len(axes.dims) for d in ([dims] if isinstance(dims, int) else dims)}
    result = reduced_axes(axes, gone, bool(node.args.get("keepdim")))
    if not any(axes.axes_of(d) for d in gone):
        return Local(node, result)
    batch = any(0 in axes.axes_of(d) for d in gone)
    return None if batch else AlongDimensions(node, result, tuple(sorted(gone)))
