"""A convolution with what follows it, in one call: an addition, an activation.

oneDNN, which PyTorch has for CPUs, does both while it writes a convolution's result, and likes its
weights in an order of its own.  Elsewhere it is one call after another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..ir.node import Node, overload
from ..ir.region import Region
from ..kernels.preallocated import placed
from .base import Call, Rule, Weights, rule
from .calls import invoke
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

    @property
    def result_types(self) -> tuple[torch.dtype, ...]:
        return (torch.float32,) if self.node.dtype == torch.float32 else ()

    def into(self, call: Call, results: Sequence[torch.Tensor]) -> Call:
        return placed(call, results[0])

    def sliding(self, padding: list[int], region: Region | None, weights: Weights) -> Call:
        args = self.node.args
        weight, bias = (args[n] and weights[args[n].name] for n in ("weight", "bias"))
        kind, options = args["activation"], args["options"]
        windows = (list(self.stride), list(self.dilation), args["groups"])
        if not weight.is_mkldnn:
            return self._one_by_one(weight, bias, padding)
        name, given = ACTIVATIONS.get(kind, (None, ()))
        scalars = [options[option] for option in given]
        alone, onto, with_other = (
            torch.ops.mkldnn._convolution_pointwise.default,
            torch.ops.mkldnn._convolution_pointwise_.binary,
            torch.ops.mkldnn._convolution_pointwise.binary,
        )
        if args["other"] is None:
            more = (weight, bias, padding, *windows, name or "none", scalars, None)
            return lambda x: alone(x, *more)
        more = (weight, bias, padding, *windows, "add", 1.0, name, scalars, None)
        if self.overwrites:
            return lambda x, other: onto(other, x, *more)
        return lambda x, other: with_other(x, other, *more)

    def _one_by_one(
        self, weight: torch.Tensor, bias: torch.Tensor | None, padding: list[int]
    ) -> Call:
        args = self.node.args
        convolution = overload(f"aten.{self.node.kind}.default")
        windows = (list(self.stride), padding, list(self.dilation), args["groups"])
        activation = args["activation"]

        def call(x: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
            result = convolution(x, weight, bias, *windows)
            if other is not None:
                result = result + other
            if activation:
                result = invoke(f"aten.{activation}.default", {"self": result, **args["options"]})
            return result

        return call


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
