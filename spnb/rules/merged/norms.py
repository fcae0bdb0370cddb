"""Normalization and softmax over space: merged statistics, then an elementwise call."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from ...ir.axes import Axes, axes_in, dim, is_image
from ...ir.broadcasting import fitted
from ...ir.node import Node, Ref
from ...ir.region import Region
from ...ir.tiling import Tiling
from ...kernels.half_conv import HALVES
from ..base import Call, Direct, Local, Rule, Tensors, Weights
from ..elementwise import along_one, uncut
from ..fallback import Whole
from ..registry import rule
from .merging import cut_axes, merged
from .normalized_channels import NormalizedChannels, factor_and_term


@dataclass(frozen=True)
class OverSpace(Whole):
    """An operator in which each position of the result reads a statistic over whole dimensions.

    Parameters
    ----------
    groups
        Number of groups of channels, each with a statistic of its own; None where channels are not
        grouped.
    dims
        The dimensions of the statistic, counted after channels are split into groups of several.
    statistic
        Name of the statistic.
    """

    groups: int | None
    dims: tuple[int, ...]
    statistic: str = "moments"

    @cached_property
    def axes(self) -> Axes:
        return self.node.operand_axes[0]

    @property
    def by_micro_batch(self) -> bool:
        return self.node.kind == "batch_norm"

    @cached_property
    def grouped(self) -> Axes:
        """Axes of the operand, with its channels in groups if these have several."""
        if self.groups in (None, self.axes.shape[1]):
            return self.axes
        assert self.groups is not None
        first, _, *others = self.axes.dims
        inside = dim(self.axes.shape[1] // self.groups)
        return self.axes.with_dims([first, dim(self.groups), inside, *others])

    def gathers(self, operand: int, axis: int) -> bool:
        return any(axis in self.grouped.axes_of(d) for d in self.dims)

    def lower(self, tiling: Tiling) -> Sequence[Node]:
        """Each tile's statistics are merged; then each position is computed separately."""
        node = self.node
        cut = cut_axes(self.grouped, self.dims, tiling)
        if not (cut or self.by_micro_batch) or not node.dtype.is_floating_point:
            return (node,)
        operand, before = Ref(node.operands[0]), []
        if self.grouped != self.axes:
            view = replace(node, name=f"{node.name}.groups", op="aten.view.default")
            args = {"self": operand, "size": list(self.grouped.shape)}
            before = [replace(view, args=args, axes=self.grouped, operand_axes=(self.axes,))]
            operand = Ref(before[0].name)
        nodes = merged(node, operand, self.grouped, list(self.dims), self.statistic, tiling)
        args = {**node.args, "groups": self.groups, "kind": node.kind}
        args["statistics"] = Ref(nodes[-1].name)
        last = replace(node, op=f"spnb.{NORMALIZED.get(node.kind, 'normalized')}.{node.kind}")
        axes = (self.axes, nodes[-1].axes)
        return [*before, *nodes, replace(last, args=args, operand_axes=axes)]


NORMALIZED = {"softmax": "exponential", "log_softmax": "exponential"}


@dataclass(frozen=True)
class Normalized(Direct):
    """Normalization with merged statistics: ``(x - mean) / sqrt(variance + eps)``."""

    any_layout = True

    @cached_property
    def axes(self) -> Axes:
        return self.node.operand_axes[0]

    allocates = True

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        args = self.node.bind(tensors, weights)
        x, (count, mean, squares) = tensors[0], args["statistics"].unbind(-1)
        if args["groups"] is not None:
            return self._grouped(tensors, weights)
        whole = x.to(mean.dtype)
        if args["kind"] == "rms_norm":
            eps = torch.finfo(x.dtype).eps if args["eps"] is None else args["eps"]
            result = whole * (squares / count + mean.square() + eps).rsqrt()
        else:
            result = (whole - mean) * (squares / count + args["eps"]).rsqrt()
        for name, scale in (("weight", True), ("bias", False)):
            if args.get(name) is not None:
                value = self._along(args[name], region)
                result = result * value if scale else result + value
        return result.to(x.dtype)

    def bound(
        self,
        given: Sequence[Region],
        needs: Sequence[Region],
        region: Region,
        weights: Weights,
        scratch: torch.Tensor | None = None,
    ) -> Call:
        if not self.result_types:
            return super().bound(given, needs, region, weights, scratch)
        return lambda *tensors, out=None: self._grouped(tensors, weights, out)

    @property
    def result_types(self) -> tuple[torch.dtype, ...]:
        writes = self.node.dtype in (torch.float32, torch.float64) and is_image(self.axes)
        return (self.node.dtype,) if writes and self.node.args["groups"] is not None else ()

    def into(self, call: Call, results: Sequence[torch.Tensor]) -> Call:
        return lambda *tensors: call(*tensors, out=results[0])

    def _grouped(
        self, tensors: Tensors, weights: Weights, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """A factor and a term for each channel, as in PyTorch."""
        args = self.node.bind(tensors, weights)
        x, moments = tensors[0], args["statistics"]
        given = (moments, args.get("weight"), args.get("bias"), args["eps"])
        if x.dtype not in HALVES and out is None:
            return NormalizedChannels.apply(x, *given)
        exact = torch.float32 if x.dtype in HALVES else x.dtype  # rounded once, as in PyTorch
        factor, term = (figure.to(exact) for figure in factor_and_term(x, *given))
        return torch.addcmul(term, x, factor, out=out).to(x.dtype)

    def _along(self, value: torch.Tensor, region: Region) -> torch.Tensor:
        return fitted(value, Axes.uncut(tuple(value.shape), self.axes.rank), self.axes, region)


@dataclass(frozen=True)
class Exponential(Direct):
    """Softmax with the merged maximum and sum of exponentials."""

    @cached_property
    def axes(self) -> Axes:
        return self.node.operand_axes[0]

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        top, total = tensors[1].unbind(-1)
        total = total.masked_fill(top == math.inf, math.nan)  # as inf - inf is in PyTorch's own
        x = tensors[0].to(top.dtype) - top
        if self.node.args["kind"] == "log_softmax":
            return (x - total.log()).to(self.node.dtype)
        return (x.exp() / total).to(self.node.dtype)


def grouped_norm(node: Node, groups: int, batch_too: bool = False) -> Rule | None:
    """A norm over space of channels in groups; with ``batch_too`` also over the batch."""
    axes = node.operand_axes[0]
    if len(axes.dims) < 2 or axes_in(axes.dims[1]):
        return None
    split = 0 if groups == axes.shape[1] else 1  # as many dimensions more
    dims = (*([0] if batch_too else []), *range(2, len(axes.dims) + split))
    return OverSpace(node, groups, dims)


@rule("group_norm")
def group_norm(node: Node) -> Rule | None:
    """The rule of group norm (Wu and He, *Group Normalization*, 2018)."""
    return grouped_norm(node, node.args["num_groups"])


@rule("instance_norm")
def instance_norm(node: Node) -> Rule | None:
    """The rule of instance norm; with running statistics it is elementwise."""
    axes = node.operand_axes[0]
    if not node.args["use_input_stats"]:
        return Local(node, axes) if uncut(axes, [1]) else None
    return grouped_norm(node, axes.shape[1])


@rule("batch_norm")
def batch_norm(node: Node) -> Rule | None:
    """The rule of batch norm: elementwise with running statistics, else over batch and space."""
    axes = node.operand_axes[0]
    if not node.args["training"]:
        return Local(node, axes) if uncut(axes, [1]) else None
    return grouped_norm(node, axes.shape[1], batch_too=True)


@rule("layer_norm", "rms_norm")
def norm_over_last(node: Node) -> Rule | None:
    """The rule of layer norm and RMS norm, over the last dimensions: channels, space or both."""
    axes, count = node.operand_axes[0], len(node.args["normalized_shape"])
    last = tuple(range(len(axes.dims) - count, len(axes.dims)))
    if uncut(axes, last):
        return Local(node, axes)
    return None if any(0 in axes.axes_of(d) for d in last) else OverSpace(node, None, last)


@rule("softmax", "log_softmax")
def softmax(node: Node) -> Rule | None:
    """The rule of softmax: over channels at each position; over space with merged sums."""
    axes = node.operand_axes[0]
    number = node.args["dim"] % max(1, len(axes.dims))
    if not axes.dims or uncut(axes, [number]):
        return along_one(node)
    return None if 0 in axes.axes_of(number) else OverSpace(node, None, (number,), "exponentials")


rule("spnb.normalized")(Normalized)
rule("spnb.exponential")(Exponential)
