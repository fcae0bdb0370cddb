"""The steps of attention whose keys go round the tiles: see `spnb.rules.ring`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from ..ir.axes import Axes, axes_in, dim, size_of
from ..ir.region import Region, Span
from ..ir.tiling import Tiling
from ..kernels.attention_state import EXTRA
from .attention import Attention
from .base import Direct, Spans, Tensors, Weights
from .fallback import rule_of
from .registry import rule

Turns = Mapping[int, int]
"""By axis, how many tiles further on a tile's keys come from."""


@dataclass(frozen=True)
class HeldKeys:
    """Which keys a tile holds in a step, axis by axis.

    Attributes
    ----------
    queries
        By axis, the span of queries of each tile.
    keys
        By axis, the span of keys that each tile holds.
    """

    queries: Mapping[int, tuple[Span, ...]]
    keys: Mapping[int, tuple[Span, ...]]

    def span(self, axis: int, queries: Span, extent: int) -> Span:
        """The span of keys that is held where a span of queries is computed."""
        if axis not in self.keys:
            return (0, extent)
        return self.keys[axis][self.queries[axis].index(queries)]


def rotated(spans: Sequence[Span], count: int) -> tuple[Span, ...]:
    """Spans of which tile ``t`` has that of tile ``t + count``.

    >>> rotated([(0, 2), (2, 4), (4, 7)], 1)
    ((2, 4), (4, 7), (0, 2))
    """
    return (*spans[count:], *spans[:count])


@dataclass(frozen=True)
class Turned(Direct):
    """The same value, with its ownership turned round the grid."""

    owner_computes = True
    any_layout = True

    @cached_property
    def axes(self) -> Axes:
        return self.node.operand_axes[0]

    def own(self, tiling: Tiling) -> Spans:
        turns: Turns = self.node.args["turns"]
        spans = enumerate(tiling.spans(self.axes.extent))
        return tuple(rotated(along, turns.get(axis, 0)) for axis, along in spans)

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        return tensors[0]


@dataclass(frozen=True)
class AttentionStep(Direct):
    """The state of a tile's queries after the keys that it holds in one step."""

    owner_computes = True
    any_layout = True

    @cached_property
    def of(self) -> Attention:
        """The rule of the whole call."""
        found = rule_of(self.node.args["of"])
        assert isinstance(found, Attention)
        return found

    @cached_property
    def axes(self) -> Axes:
        *dims, channels = self.of.axes.dims
        return self.of.axes.with_dims([*dims, dim(size_of(channels) + EXTRA)])

    def _is_state(self, operand: int) -> bool:
        return operand == len(self.of.node.operands)

    def _goes_round(self, operand: int, axis: int) -> bool:
        """Whether a tile has other positions of an operand along an axis in each step."""
        return self.of.holds_keys(operand) and axis in axes_in(self.of.keys)

    def gathers(self, operand: int, axis: int) -> bool:
        if self._is_state(operand) or self._goes_round(operand, axis):
            return False
        return self.of.gathers(operand, axis)

    def need(self, operand: int, axis: int, span: Span) -> Span:
        extent = self.node.operand_axes[operand].extent[axis]
        if extent == 1:
            return (0, 1)
        if not self._is_state(operand) and self._goes_round(operand, axis):
            held: HeldKeys = self.node.args["held"]
            return held.span(axis, span, extent)
        return (0, extent) if self.gathers(operand, axis) else span

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        count = len(self.of.labels)
        held: HeldKeys = self.node.args["held"]
        keys = (
            held.span(axis, span, n)
            for axis, (span, n) in enumerate(zip(region.spans, self.of.key_extent, strict=True))
        )
        state: torch.Tensor | None = tensors[count] if len(tensors) > count else None
        return self.of.with_keys(state, tensors[:count], region, Region(tuple(keys)), weights)


@dataclass(frozen=True)
class AttentionResult(Direct):
    """The result of attention, once a tile's queries have read all keys.

    The owner computes it, as the gradient of a state belongs to one reader (see
    `spnb.kernels.attention_state`).
    """

    owner_computes = True

    @cached_property
    def axes(self) -> Axes:
        state = self.node.operand_axes[0]
        return state.with_dims([*state.dims[:-1], dim(self.node.shape[-1])])

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        found = rule_of(self.node.args["of"])
        assert isinstance(found, Attention)
        return found.result(tensors[0])


rule("spnb.turned")(Turned)
rule("spnb.attention_step")(AttentionStep)
rule("spnb.attention_result")(AttentionResult)
