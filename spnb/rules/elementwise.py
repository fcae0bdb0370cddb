"""Operators that compute every position for itself: elementwise, and along channels."""

from __future__ import annotations

from ..node import Node
from .base import Rule, rule
from .whole import Whole

ELEMENTWISE = """
    abs add addcmul addcdiv alias bitwise_and bitwise_not bitwise_or ceil celu clamp clamp_max
    clamp_min clone contiguous cos detach detach_ div dropout elu eq erf exp expand_as expm1
    feature_dropout
    floor ge gelu getitem gt hardsigmoid hardswish hardtanh le leaky_relu lift_fresh_copy log log1p
    log_sigmoid logical_and logical_not logical_or lt maximum minimum mish mul ne neg ones_like pow
    prelu reciprocal relu relu6 round rrelu rsqrt rsub selu sigmoid sign silu sin softplus
    softshrink sqrt square sub tan tanh tanhshrink threshold to type_as where zeros_like _to_copy
    alpha_dropout feature_alpha_dropout hardshrink logit
"""
ALONG_AN_AXIS = (
    "cat chunk concat slice split split_with_sizes softmax log_softmax narrow cumsum glu"
)


@rule(*ELEMENTWISE.split())
def elementwise(node: Node) -> Rule | None:
    """Every element for itself, with broadcasting; dropout only where it does nothing."""
    if node.args.get("train") or node.args.get("training"):
        return None
    aligned = all(len(shape) in (0, len(node.shape)) for shape in node.operand_shapes)
    return Rule(node) if aligned else None


@rule("batch_norm")
def batch_norm(node: Node) -> Rule | None:
    """With running statistics, elementwise."""
    return None if node.args["training"] else Rule(node)


@rule(*ALONG_AN_AXIS.split())
def along_an_axis(node: Node) -> Rule | None:
    """Over channels every position is for itself; over space the whole extent is needed."""
    axis = node.args["dim"] % max(1, len(node.operand_shapes[0]))
    return (None, Rule(node))[axis] if axis < 2 else Whole(node)
