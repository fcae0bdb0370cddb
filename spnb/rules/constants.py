"""Constants as values: a copy for each image of the batch, such as a class token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..ir.axes import Axes, dim
from ..ir.broadcasting import joined_along
from ..ir.region import Region, Span
from .base import Rule, Tensors, Weights
from .registry import rule


@dataclass(frozen=True)
class ForEachImage(Rule):
    """A constant beside a value: it has the value's axes, except in one dimension.

    Nothing of the value is read.  It says which images a micro-batch has.
    """

    any_layout = True

    @cached_property
    def axes(self) -> Axes:
        shape, along = self.node.shape, self.node.args["along"]
        operands, rank = self.node.operand_axes, self.node.axes.rank
        return joined_along(along, dim(shape[along]), shape, operands, rank)

    def gathers(self, operand: int, axis: int) -> bool:
        return False

    def need(self, operand: int, axis: int, span: Span) -> Span:
        return (0, 0)

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        return self._fitted_weight(self.node.weights[0], weights, region)


rule("spnb.for_each_image")(ForEachImage)
