"""A convolution, an addition and an activation in one call.

The calls ``spnb.conv2d`` and ``spnb.conv3d`` are made by `spnb.planner.fuse`, and computed by
`spnb.kernels.onednn`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from ..ir.node import Node
from ..ir.region import Region
from ..kernels.onednn import FusedConvolution, fuses
from ..kernels.preallocated import written_into
from .base import Call, Rule, Weights
from .convolutions import Convolution, convolution
from .registry import rule


@dataclass(frozen=True)
class Fused(Convolution):
    """``activation(convolution(input) + other)``; either may be absent.

    Parameters
    ----------
    overwrites
        Whether the result may be written over ``other``.
    """

    overwrites: bool = False

    def prepare(self, weights: Weights, shape: Sequence[int]) -> Weights:
        name = self.node.args["weight"].name
        if not weights[name].is_mkldnn and not fuses(weights[name]):
            return weights
        convolution = self._fused([0] * len(self.padding))  # the shape has it already
        return {**weights, name: convolution.reorder(weights[name], shape)}

    @property
    def result_types(self) -> tuple[torch.dtype, ...]:
        return (torch.float32,) if self.node.dtype == torch.float32 else ()

    def into(self, call: Call, results: Sequence[torch.Tensor]) -> Call:
        adds = self.node.args["other"] is not None and not self.overwrites
        return written_into(call, results[0], final_size=adds)

    def sliding(self, padding: list[int], region: Region | None, weights: Weights) -> Call:
        args = self.node.args
        weight, bias = args["weight"], args["bias"]
        return self._fused(padding).bind(
            weights[weight.name], bias and weights[bias.name], self.overwrites
        )

    def _fused(self, padding: Sequence[int]) -> FusedConvolution:
        args = self.node.args
        return FusedConvolution(
            self.node.kind,
            self.stride,
            padding,
            self.dilation,
            args["groups"],
            adds=args["other"] is not None,
            activation=args["activation"],
            options=args["options"],
        )


@rule("spnb.conv2d", "spnb.conv3d")
def fused(node: Node) -> Rule | None:
    """The rule of a fused call: that of its convolution; ``other`` is read where the result is."""
    plain = convolution(node)
    return Fused(**fields_of(plain)) if type(plain) is Convolution else None


def fields_of(rule: Convolution) -> dict[str, Any]:
    """The arguments with which a rule like this one is made."""
    return {field.name: getattr(rule, field.name) for field in fields(rule)}
