"""Operators that compute each position separately: elementwise, or along dimensions never cut."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..ir.axes import Axes, axes_in, dim, size_of
from ..ir.broadcasting import joined_along
from ..ir.node import Node
from ..ir.region import Region
from .along_batch import along_batch
from .base import ALLOCATING, Local, Rule, Tensors, Weights
from .fallback import AlongDimensions, Whole, axes_of_part
from .registry import rule

ELEMENTWISE = """
    abs add addcmul addcdiv alias atan atan2 bitwise_and bitwise_not bitwise_or ceil celu
    clamp clamp_max clamp_min clone contiguous copy cos cosh detach div elu eq erf exp
    expand_as expm1 fill floor floor_divide fmod frac full_like ge gelu gt hardshrink
    hardsigmoid hardswish hardtanh isfinite isinf isnan le leaky_relu lerp lift_fresh_copy
    log log10 log1p log2 log_sigmoid logaddexp logical_and logical_not logical_or
    logical_xor logit lt masked_fill maximum minimum mish mul nan_to_num ne neg ones_like
    pow real reciprocal relu relu6 remainder round rsqrt rsub selu sigmoid sign silu sin
    sinh softplus softshrink special_erf special_expit sqrt square sub tan tanh tanhshrink
    threshold to trunc type_as where xlogy zeros_like _to_copy fake_quantize_per_tensor_affine
"""


@rule(*ELEMENTWISE.split(), *(f"__{name}__" for name in ["and", "or", "xor", "lshift", "rshift"]))
def elementwise(node: Node) -> Rule | None:
    """The rule of elementwise operators, with broadcasting."""
    return Rule(node)


@rule("prelu", "channel_shuffle")
def of_channels(node: Node) -> Rule | None:
    """The rule of PReLU and of channel shuffles: operators on the second dimension, channels."""
    axes = node.operand_axes[0]
    found = axes.axes_of(1) if len(axes.dims) > 1 else ()
    return None if 0 in found else Whole(node) if found else Local(node, axes)


@dataclass(frozen=True)
class OneResult(Rule):
    """One of several results; results may differ in size in dimensions that are never cut."""

    any_layout = True

    @cached_property
    def axes(self) -> Axes:
        return axes_of_part(self.node.operand_axes[0], self.node.shape)

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        return tensors[0][self.node.args["index"]]

    def place(self, region: Region) -> Hashable:
        return ()


@rule("fake_quantize_per_channel_affine")
def of_one_dimension(node: Node) -> Rule | None:
    """The rule of rounding to a scale for each channel, in training that is aware of it."""
    axes = node.operand_axes[0]
    return Local(node, axes) if uncut(axes, [node.args["axis"]]) else None


@rule("getitem")
def one_result(node: Node) -> Rule | None:
    """The rule of taking one of several results."""
    return OneResult(node)


ALONG_ONE = "argsort cummax cummin glu sort _log_softmax _softmax"


def uncut(axes: Axes, numbers: Sequence[int]) -> bool:
    """Whether no axis of the image lies in some dimensions of a tensor."""
    return not any(axes_in(axes.dims[n]) for n in numbers)


def along_one(node: Node) -> Rule | None:
    """The rule of operators along one dimension that is never cut; its size may change."""
    axes, shape = node.operand_axes[0], node.shape
    number = node.args["dim"] % max(1, len(axes.dims))
    pairs = zip(axes.dims, shape, strict=True)
    result = axes.with_dims([dim(n) if n != size_of(d) else d for d, n in pairs])
    if not axes.dims or uncut(axes, [number]):
        return Local(node, result)
    if 0 in axes.axes_of(number):
        return along_batch(node, number)
    return AlongDimensions(node, result, (number,))


rule(*ALONG_ONE.split())(along_one)


@dataclass(frozen=True)
class Joined(Rule):
    """Tensors one after another along a dimension that is never cut."""

    any_layout = True

    along: int

    @property
    def allocates(self) -> bool:
        return self.node.kind in ALLOCATING

    def place(self, region: Region) -> Hashable:
        return ()

    @cached_property
    def axes(self) -> Axes:
        shape, k = self.node.shape, self.along
        return joined_along(k, dim(shape[k]), shape, self.node.operand_axes, self.node.axes.rank)
