"""A convolution with what follows it, in one call: an addition, an activation.

oneDNN, which PyTorch has for CPUs, does both while it writes a convolution's result, and likes its
weights in an order of its own.  Elsewhere it is one call after another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..node import Node, invoke
from .base import Rule, Weights, rule
from .windows import Convolution, convolution

ACTIVATIONS = {
    "relu": ("relu", ()),
    "silu": ("swish", ()),
    "sigmoid": ("sigmoid", ()),
    "tanh": ("tanh", ()),
    "hardswish": ("hardswish", ()),
    "leaky_relu": ("leaky_relu", ("negative_slope",)),
    "hardtanh": ("hardtanh", ("min_val", "max_val")),
}
"""By operator: oneDNN's name of an activation, and the arguments that it takes."""

AFTER_ADDITION = ("relu",)
"""Activations that oneDNN does after an addition, too."""


@dataclass(frozen=True)
class Fused(Convolution):
    """``activation(convolution(input) + other)``; either may be absent.

    Parameters
    ----------
    overwrites
        Whether the result may take the place of ``other``.
    """

    overwrites: bool = False

    def prepare(self, weights: Weights, shape: Sequence[int]) -> Weights:
        args = self.node.args
        weight = weights[args["weight"].name]
        if not (weight.dtype == torch.float32 and weight.device.type == "cpu" and _has_onednn()):
            return weights
        size = [max(n, k) for n, k in zip(shape[2:], weight.shape[2:], strict=True)]
        packed = torch.ops.mkldnn._reorder_convolution_weight(
            weight.contiguous(),
            list(self.padding),
            list(self.stride),
            list(self.dilation),
            args["groups"],
            [max(1, shape[0]), shape[1], *size],
        )
        return {**weights, args["weight"].name: packed}

    def slide(self, args: dict[str, Any], padding: list[int], region: Any) -> Any:
        if not args["weight"].is_mkldnn:
            return self._one_by_one(args, super().slide(args, padding, region))
        x, weight, bias = args["input"], args["weight"], args["bias"]
        windows = (padding, list(self.stride), list(self.dilation), args["groups"])
        name, options = ACTIVATIONS.get(args["activation"], (None, ()))
        scalars = [args["options"][option] for option in options]
        if args["other"] is None:
            return torch.ops.mkldnn._convolution_pointwise(
                x, weight, bias, *windows, name or "none", scalars, None
            )
        more = (weight, bias, *windows, "add", 1.0, name, scalars, None)
        if self.overwrites:
            return torch.ops.mkldnn._convolution_pointwise_.binary(args["other"], x, *more)
        return torch.ops.mkldnn._convolution_pointwise.binary(x, args["other"], *more)

    def _one_by_one(self, args: dict[str, Any], result: torch.Tensor) -> torch.Tensor:
        if args["other"] is not None:
            result = result + args["other"]
        if kind := args["activation"]:
            result = invoke(f"aten.{kind}.default", {"self": result, **args["options"]})
        return result


@rule("spnb.conv2d", "spnb.conv3d")
def fused(node: Node) -> Rule | None:
    """As the convolution alone; what is added to it is needed where the result is."""
    plain = convolution(node)
    return Fused(**vars_of(plain)) if type(plain) is Convolution else None


def vars_of(rule: Convolution) -> dict[str, Any]:
    """What makes a rule."""
    return {name: getattr(rule, name) for name in rule.__dataclass_fields__}


def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled
