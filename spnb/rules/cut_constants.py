"""Constants of the size of the image, such as a mask of windows: a tile makes its own part.

A constant is a tensor that depends on no input of the network, but is computed in its forward, or
is one of its buffers.  Its calls have rules like all others, so a region of it needs regions of
what it is made of, back to where a tensor is filled with a number::

    zeros (1, H, W, 1) ─ slice_scatter ─ … ─ view, permute ─ sub ─ masked_fill ─ mask (windows, …)
    the tile's rows and columns        ◄─      ◄─      ◄─      the tile's windows

So no rank has the whole mask.  It is computed once, when a plan is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from ..ir.axes import Axes
from ..ir.node import Node, Weight
from ..ir.region import Region
from .base import Call, Rule, Tensors, Weights
from .calls import invoke
from .fallback import rule_of
from .registry import rule

FILLED = ("full", "ones", "zeros")
"""Operators that fill a tensor of any size with one number."""

CONSTANT = "spnb.constant.default"
"""The operator of a constant that is cut."""


@dataclass(frozen=True)
class Constant(Rule):
    """A constant of which each tile computes its own region, once."""

    @cached_property
    def axes(self) -> Axes:
        return self.node.args["axes"]

    def against(self, weight: Weight) -> Axes | None:
        return None

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        known = {weight.name: weights[weight.name].cpu() for weight in self.node.weights}
        value = self.node.args["value"]
        if isinstance(value, Weight):
            found = _cut(known[value.name], self.axes, region)
        else:
            found = Parts(self.node.args["calls"], known).of(value, region).contiguous()
        return found.to(torch.get_default_device())  # the calls name the CPU

    def bound(
        self,
        given: Sequence[Region],
        needs: Sequence[Region],
        region: Region,
        weights: Weights,
        scratch: torch.Tensor | None = None,
    ) -> Call:
        found = self.apply((), needs, region, weights)
        return lambda: found


rule("spnb.constant")(Constant)


class Parts:
    """Regions of the values of some calls that read weights, and each other's results.

    Parameters
    ----------
    calls
        The calls, with the axes of their results.
    weights
        The weights that they read, by name.
    """

    def __init__(self, calls: Sequence[Node], weights: Mapping[str, torch.Tensor]):
        self._calls, self._weights = {call.name: call for call in calls}, weights
        self._known: dict[tuple[str, Region], torch.Tensor] = {}

    def of(self, value: str, region: Region) -> torch.Tensor:
        """A region of a value."""
        known = self._known.get((value, region))
        if known is None:
            known = self._known[value, region] = self._computed(self._calls[value], region)
        return known

    def _computed(self, call: Node, region: Region) -> Any:
        if not call.operands:
            return self._made(call, region)
        rule = rule_of(call)
        needs, pieces = [], []
        for number, (value, axes) in enumerate(zip(call.operands, call.operand_axes, strict=True)):
            spans = enumerate(region.spans)
            needs.append(Region(tuple(rule.need(number, axis, span) for axis, span in spans)))
            pieces.append(self.of(value, needs[-1] & Region.whole(axes.extent)))
        return rule.apply(pieces, needs, region, self._weights)

    def _made(self, call: Node, region: Region) -> torch.Tensor:
        """A region of a tensor that is made of numbers, or of weights."""
        args = call.bind([], self._weights)
        if call.kind in FILLED:
            return invoke(call.op, args | {"size": list(call.axes.local_shape(region))})
        return _cut(invoke(call.op, args), call.axes, region)


def _cut(whole: torch.Tensor, axes: Axes, region: Region) -> torch.Tensor:
    """A copy of a region, so that the whole tensor is not held."""
    return axes.piece(whole, Region.whole(axes.extent), region).clone()
