"""Calls of 8-bit numbers; `spnb.kernels.int8` computes them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch

from ..ir.axes import Axes
from ..ir.node import Node
from ..ir.region import Region
from ..kernels.int8 import Int8Convolution, computes
from .base import Call, Padded, Rule, Weights
from .convolutions import Convolution, convolution
from .fused import fields_of
from .registry import rule


@dataclass(frozen=True)
class Rounding(Rule):
    """Rounds each number to 8 bits, or undoes it."""

    any_layout = True
    allocates = True

    def place(self, region: Region) -> Hashable:
        return ()


rule("spnb.quantize", "spnb.dequantize")(Rounding)


@dataclass(frozen=True)
class RoundedConvolution(Convolution):
    """``relu(convolution(input) + other)`` of 8-bit numbers; its padding is what stands for 0."""

    def scratch(self, given: Region, region: Region) -> tuple[Axes, Region] | None:
        # Its memory would have the type of the result.
        return super().scratch(given, region) if self.node.dtype == torch.uint8 else None

    def padded(self, given: Region, region: Region) -> Padded | None:
        return None  # around the tile there would be the number 0, which may stand for another

    def prepare(self, weights: Weights, shape: Sequence[int]) -> Weights:
        args = self.node.args
        name, scale = args["weight"].name, weights[args["weight_scale"].name]
        if weights[name].is_mkldnn or not computes(shape, weights[name].shape):
            return weights
        packed = self._kernel([0] * len(self.padding)).pack(weights[name], scale, shape)
        return {**weights, name: packed}

    def sliding(self, padding: list[int], region: Region | None, weights: Weights) -> Call:
        args = self.node.args
        weight, scale, bias = args["weight"], args["weight_scale"], args["bias"]
        return self._kernel(padding).bind(
            weights[weight.name], weights[scale.name], bias and weights[bias.name]
        )

    def _kernel(self, padding: Sequence[int]) -> Int8Convolution:
        args = self.node.args
        names = ["x_scale", "x_zero", "other_scale", "other_zero", "relu", "scale", "zero", "most"]
        return Int8Convolution(
            self.stride, padding, self.dilation, args["groups"], **{n: args[n] for n in names}
        )


@rule("spnb.conv_int8")
def rounded_convolution(node: Node) -> Rule | None:
    """The rule of a convolution of 8-bit numbers: that of its windows."""
    plain = convolution(node)
    if type(plain) is not Convolution:
        return None
    return RoundedConvolution(**fields_of(plain) | {"fill": node.args["x_zero"]})
