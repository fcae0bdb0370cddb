"""A small value that each tile holds whole, since it is copied for each window of the image.

GC ViT (Hatamizadeh et al., 2023) computes one window of queries from the whole image, and repeats
it for each window.  Its positions are then no positions of the image any more::

    queries  batch | height 7 | width 7 | channels     spnb.held_whole
             batch | 7 | 7 | channels                  repeated: windows | 49 | channels
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..ir.axes import Axes, Factor, joined
from ..ir.region import Region, Span
from .base import Direct, Tensors, Weights
from .registry import rule

LEAST_COPIES = 4
"""A value is held whole if it is copied at least so often."""


@dataclass(frozen=True)
class HeldWhole(Direct):
    """The same value, in which only the batch is cut."""

    any_layout = True

    @cached_property
    def axes(self) -> Axes:
        operand = self.node.operand_axes[0]
        dims = ([f if f.axis == 0 else Factor(f.size) for f in d] for d in operand.dims)
        return operand.with_dims([joined(factors) for factors in dims])

    def need(self, operand: int, axis: int, span: Span) -> Span:
        return (0, self.node.operand_axes[0].extent[axis]) if axis else span

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        return tensors[0].reshape(self.axes.local_shape(region))


rule("spnb.held_whole")(HeldWhole)
