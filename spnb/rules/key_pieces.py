"""Attention over keys in pieces: the state of the queries after the keys of one piece.

Keys in pieces lie in several tensors: those of a class token, say, and those of an image.  Each
piece is one call, from the state before it to the state after it::

    class token       image             keys
    attention_part ─  attention_part ─  attention_result

What a grid makes of such a call depends on what it cuts:

- only the queries, or nothing: each tile reads all of the piece;
- queries and keys: the keys of the tiles go round (`spnb.rules.ring`);
- only the keys, as for the query of a class token: each tile reads its own keys, and the states of
  the tiles are merged like figures (`spnb.rules.merged.merging`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from ..ir.axes import Axes, axes_in, dim, size_of
from ..ir.node import Node, Ref
from ..ir.region import Region, Span
from ..ir.tiling import Tiling
from ..kernels.attention_state import EXTRA, merged_states
from .attention import Attention
from .base import Direct, Rule, Spans, Tensors, Weights
from .fallback import rule_of
from .matmul import batch_labels, product, ranks_of
from .merged.merging import Combined, combined, one_each, positions_of
from .registry import rule
from .ring import TENSORS, Ring, RingAttention


@dataclass(frozen=True)
class AttentionPart(Attention):
    """The state of queries after the keys of a piece."""

    owner_computes = True

    @cached_property
    def _before(self) -> Node | None:
        """Stands for the call that gives the state before; None before the first keys."""
        state = self.node.args["state"]
        if state is None:
            return None
        return replace(self.node, name=state.value, axes=self.node.operand_axes[-1])

    @cached_property
    def _attention(self) -> RingAttention:
        """The attention over these keys alone."""
        args = {name: arg for name, arg in self.node.args.items() if name != "state"}
        count = len(self.labels) - (self._before is not None)
        *dims, state = self.axes.dims
        alone = replace(
            self.node,
            op=f"spnb.attention.{self.node.kind}",
            args=args,
            axes=self.axes.with_dims([*dims, dim(size_of(state) - EXTRA)]),
            operand_axes=self.node.operand_axes[:count],
        )
        found = rule_of(alone)
        assert isinstance(found, RingAttention)
        return found

    def lower(self, tiling: Tiling) -> Sequence[Node]:
        """The calls for what a grid cuts."""
        attention = self._attention
        cut = [axis for axis in axes_in(self.keys) if tiling.grid[axis] > 1]
        here = [axis for axis in cut if axis in self.axes.present]
        if not cut or not attention.goes_round(tiling):
            return (self.node,)
        if here == cut:
            calls = Ring(attention, cut, tiling).steps(self._before)
        elif not here:
            calls = self._tile_by_tile(cut, tiling)
        else:
            return (self.node,)
        return [*calls[:-1], replace(calls[-1], name=self.node.name)]

    def _tile_by_tile(self, cut: Sequence[int], tiling: Tiling) -> list[Node]:
        """Each tile reads its own keys; then the states of the tiles are merged."""
        of, node = self._attention.node, self.node
        spans = tiling.spans(self.key_extent)
        args = {name: of.args[name] for name in TENSORS if name in of.args}
        args |= {"of": of, "parts": {axis: spans[axis] for axis in sorted(cut)}}
        first = replace(of, name=f"{node.name}.partial", op=f"spnb.partial_attention.{node.kind}")
        first = replace(first, args=args)
        first = replace(first, axes=PartialAttention(first).axes)
        over = combined(node, first, sorted(cut), "", operator="spnb.combined_states")
        last = over[-1]
        view = {"self": Ref(last.name), "size": list(node.shape)}
        found = replace(
            last,
            name=f"{node.name}.state",
            op="aten.view.default",
            args=view,
            axes=self.axes,
            operand_axes=(last.axes,),
        )
        if self._before is None:
            return [first, *over, found]
        states = [Ref(self._before.name), Ref(found.name)]
        joint = replace(found, op="spnb.joined_states.default", args={"states": states})
        return [first, *over, found, replace(joint, operand_axes=(self._before.axes, self.axes))]

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        state = tensors[-1] if self._before is not None else None
        return self.with_keys(state, tensors, region, Region.whole(self.key_extent), weights)


@dataclass(frozen=True)
class PartialAttention(Direct):
    """The state of queries after the keys of each tile; the extent of the result is the grid."""

    owner_computes = True
    any_layout = True

    @cached_property
    def of(self) -> Attention:
        """The rule of the attention over all keys of the piece."""
        found = rule_of(self.node.args["of"])
        assert isinstance(found, Attention)
        return found

    @property
    def _parts(self) -> Mapping[int, Sequence[Span]]:
        parts: Mapping[int, Sequence[Span]] = self.node.args["parts"]
        return parts

    @cached_property
    def axes(self) -> Axes:
        *dims, channels = self.of.axes.dims
        parts = [dim(len(spans), axis) for axis, spans in self._parts.items()]
        return self.of.axes.with_dims([*dims, *parts, dim(size_of(channels) + EXTRA)])

    def need(self, operand: int, axis: int, span: Span) -> Span:
        extent = self.node.operand_axes[operand].extent[axis]
        if extent == 1:
            return (0, 1)
        if axis in self._parts:
            return positions_of(self._parts[axis], span)
        return (0, extent) if self.of.gathers(operand, axis) else span

    def own(self, tiling: Tiling) -> Spans:
        return one_each(tiling, self.axes, list(self._parts))

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        keys = tuple(
            positions_of(self._parts[axis], region.spans[axis]) if axis in self._parts else (0, n)
            for axis, n in enumerate(self.of.key_extent)
        )
        state = self.of.with_keys(None, tensors, region, Region(keys), weights)
        return state.reshape(self.axes.local_shape(region))


@dataclass(frozen=True)
class CombinedStates(Combined):
    """States of tiles, merged along one axis of the grid."""

    def _joint(self, figures: torch.Tensor, d: int) -> torch.Tensor:
        return merged_states(figures, d)


@dataclass(frozen=True)
class JoinedStates(Direct):
    """The state after the keys of two states."""

    owner_computes = True
    any_layout = True

    @cached_property
    def axes(self) -> Axes:
        return self.node.operand_axes[0]

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        return merged_states(torch.stack(list(tensors)), 0)[0]


@rule("spnb.attention_part")
def attention_part(node: Node) -> Rule:
    """The rule of attention over a piece of the keys."""
    *ranks, last = ranks_of(node)
    if node.args["state"] is None:
        ranks.append(last)
    batch = batch_labels(ranks[0] - 2)
    labels = [(*batch, "query", "in"), (*batch, "key", "in"), (*batch, "key", "out")]
    scores = (*batch, "query", "key")
    labels += [scores[len(scores) - rank :] for rank in ranks[3:]]
    result = (*batch, "query", "state")
    if node.args["state"] is not None:
        labels.append(result)
    return product(node, labels, result, AttentionPart)


rule("spnb.partial_attention")(PartialAttention)
rule("spnb.combined_states")(CombinedStates)
rule("spnb.joined_states")(JoinedStates)
