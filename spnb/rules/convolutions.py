"""Convolutions of one, two and three dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..ir.axes import Dim, axes_in, dim
from ..ir.node import Node, Ref
from ..ir.region import Region
from .base import Call, Local, Rule, Weights
from .calls import caller
from .core_first import CoreFirst
from .fallback import Whole
from .registry import rule
from .spatial import per_dim, places, uncut_weight


@dataclass(frozen=True)
class Convolution(CoreFirst):
    """A convolution; one with ``padding="same"`` is run by the overload that takes numbers."""

    any_layout = True

    def sliding(self, padding: list[int], region: Region | None, weights: Weights) -> Call:
        return caller(self.node, weights, f"aten.{self.node.kind}.default", padding=padding)


@rule("conv1d", "conv2d", "conv3d")
def convolution(node: Node) -> Rule | None:
    """The rule of a convolution; ``padding="same"`` puts an odd zero after (torch.nn.Conv2d)."""
    shape, operand = uncut_weight(node, "weight"), node.operand_axes[0]
    count = len(node.args["stride"]) if shape is None else len(shape) - 2
    where = places(operand, count)
    if not isinstance(node.args["input"], Ref) or shape is None:
        return None
    if axes_in(operand.dims[-count - 1]):
        return Whole(node)
    kernel = shape[2:]
    dilation = per_dim(node.args["dilation"], count)
    padding = node.args["padding"]
    if padding == "same":
        padding = tuple(d * (k - 1) // 2 for d, k in zip(dilation, kernel, strict=True))
    elif padding == "valid":
        padding = 0
    stride, padding = per_dim(node.args["stride"], count), per_dim(padding, count)
    if where is not None:
        return Convolution(node, where, kernel, stride, dilation, padding)
    if {*kernel, *stride} == {1} and not any(padding):  # of tokens, each by itself
        return Local(node, operand.with_dims(_with_channels(operand.dims, count, shape[0])))
    return Whole(node)


def _with_channels(dims: Sequence[Dim], count: int, channels: int) -> list[Dim]:
    """Dimensions with another number of channels before the last ``count``."""
    found = list(dims)
    found[-count - 1] = dim(channels)
    return found
