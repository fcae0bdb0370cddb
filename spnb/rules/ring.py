"""Attention over all positions: the keys of each tile go round, from one tile to the next.

Queries stay on their tile.  In each step a tile reads the keys and values that it holds, and then
hands them to its neighbour, along one axis of the grid (Liu, Zaharia and Abbeel, *Ring attention
with blockwise transformers*, 2023)::

    tile         0    1    2
    step 0       k₀   k₁   k₂        each reads its own keys
    step 1       k₁   k₂   k₀        each has received those of the next tile
    step 2       k₂   k₀   k₁        after as many steps as tiles, each query has read all keys

So a tile holds the keys of two tiles at most: those that it reads, and those that arrive.  What a
tile holds is an ordinary value; only its ownership is turned: tile ``t`` owns what tile ``t + s``
owned of the keys.  So keys are handed on by ordinary exchanges, backward too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ..ir.axes import Axes, axes_in, dim, size_of
from ..ir.node import Node, Ref, map_leaves
from ..ir.tiling import Tiling
from ..kernels.attention_state import EXTRA
from ..kernels.sum_types import precise
from .attention import Attention
from .base import Rule
from .fallback import rule_of
from .matmul import batch_labels, product, ranks_of
from .registry import rule
from .ring_steps import AttentionStep, HeldKeys, Turns, rotated

TENSORS = ("query", "key", "value", "attn_mask", "masked")
"""Names of the arguments that are tensors, in the order of the operator's schema."""


@dataclass(frozen=True)
class RingAttention(Attention):
    """Attention whose keys go round where a grid cuts them."""

    def lower(self, tiling: Tiling) -> Sequence[Node]:
        """The steps of a ring, where a grid cuts the keys."""
        cut = [a for a in axes_in(self.keys) if tiling.grid[a] > 1]
        if not cut or not self.goes_round(tiling):
            return (self.node,)
        if not set(cut) & self.axes.present:
            return self._tile_by_tile(tiling)
        steps = Ring(self, cut, tiling).steps(None)
        return [*steps, self._result(steps[-1])]

    def _tile_by_tile(self, tiling: Tiling) -> Sequence[Node]:
        """Queries that are no positions read the keys of each tile there."""
        *dims, channels = self.axes.dims
        part = replace(
            self.node,
            name=f"{self.node.name}.state",
            op=f"spnb.attention_part.{self.node.kind}",
            args={**self.node.args, "state": None},
            dtype=precise(self.node.dtype),
            axes=self.axes.with_dims([*dims, dim(size_of(channels) + EXTRA)]),
        )
        return [*rule_of(part).lower(tiling), self._result(part)]

    def _result(self, state: Node) -> Node:
        """The call that gives the result, from the state after all keys."""
        args, op = {"state": Ref(state.name), "of": self.node}, self.node.kind
        axes = (state.axes,)
        return replace(self.node, op=f"spnb.attention_result.{op}", args=args, operand_axes=axes)

    def goes_round(self, tiling: Tiling) -> bool:
        """Whether each tile can do its part of the call without a whole operand."""
        if 0 in axes_in(self.keys) or not self.node.dtype.is_floating_point:
            return False
        if axes_in(self.axes.dims[-1]):
            return False
        for number, (labels, axes) in enumerate(
            zip(self.labels, self.node.operand_axes, strict=True)
        ):
            for label, factors in zip(labels, axes.dims, strict=True):
                held = axes_in(factors)
                if label == "key" and held and factors != self.keys:
                    return False
                if label == "key" or not any(tiling.grid[a] > 1 for a in held):
                    continue
                if label in ("in", "out") or any(self.gathers(number, a) for a in held if a):
                    return False
        return True


def route(grid: Sequence[int]) -> list[int]:
    """The axis along which keys are handed on after each step, so that each tile has all of them.

    >>> route([3]), route([2, 3])
    ([0, 0], [1, 1, 0, 1, 1])
    """
    if not grid:
        return []
    inner = [axis + 1 for axis in route(grid[1:])]
    return inner + [0, *inner] * (grid[0] - 1)


@dataclass(frozen=True)
class Ring:
    """Makes the calls that replace attention in a stage whose grid cuts the keys.

    Attributes
    ----------
    attention
        The rule of the call that they replace.
    cut
        The axes along which the grid cuts the keys.
    tiling
        The grid.
    """

    attention: RingAttention
    cut: Sequence[int]
    tiling: Tiling

    def steps(self, state: Node | None) -> list[Node]:
        """The calls in order, of which the last gives the state after all keys.

        Parameters
        ----------
        state
            The call that gives the state before; None before the first keys.
        """
        turns = dict.fromkeys(self.cut, 0)
        keys = {value: value for value in self._axes_of_keys}
        calls: list[Node] = []
        for number, axis in enumerate(self._route):
            # The keys are sent before they are read, so that they travel in the meantime.
            sent = self._turned(f"sent{number}", keys, turns)
            state = self._step(number, keys, turns, state)
            turns = turns | {axis: (turns[axis] + 1) % self.tiling.grid[axis]}
            received = self._turned(f"received{number}", _names(sent), turns)
            keys = _names(received)
            calls += [*sent.values(), state, *received.values()]
        return [*calls, self._step(len(self._route), keys, turns, state)]

    @cached_property
    def _axes_of_keys(self) -> dict[str, Axes]:
        """The operands that go round, by name."""
        node = self.attention.node
        pairs = enumerate(zip(node.operands, node.operand_axes, strict=True))
        return {value: axes for k, (value, axes) in pairs if self.attention.holds_keys(k)}

    @cached_property
    def _route(self) -> list[int]:
        """The axes along which keys are handed on, step by step."""
        return [self.cut[k] for k in route([self.tiling.grid[axis] for axis in self.cut])]

    def _turned(self, suffix: str, values: Mapping[str, str], turns: Turns) -> dict[str, Node]:
        """By operand, the call that gives its present value the ownership of a step."""
        node = self.attention.node
        return {
            operand: replace(
                node,
                name=f"{node.name}.{suffix}.{number}",
                op=f"spnb.turned.{node.kind}",
                args={"self": Ref(values[operand]), "turns": turns},
                axes=axes,
                operand_axes=(axes,),
            )
            for number, (operand, axes) in enumerate(self._axes_of_keys.items())
        }

    def _step(self, number: int, keys: Mapping[str, str], turns: Turns, state: Node | None) -> Node:
        """The call in which each tile reads the keys that it holds."""
        node, count = self.attention.node, iter(range(len(self.attention.labels)))

        def held_now(leaf: Any) -> Any:
            if isinstance(leaf, Ref) and self.attention.holds_keys(next(count)):
                return Ref(keys[leaf.value])
            return leaf

        args = {
            name: map_leaves(held_now, node.args[name]) for name in TENSORS if name in node.args
        }
        args |= {"state": state and Ref(state.name), "of": node, "held": self._held(turns)}
        call = replace(
            node,
            name=f"{node.name}.step{number}",
            op=f"spnb.attention_step.{node.kind}",
            args=args,
            dtype=precise(node.dtype),
            operand_axes=(*node.operand_axes, *([state.axes] if state else [])),
        )
        return replace(call, axes=AttentionStep(call).axes)

    def _held(self, turns: Turns) -> HeldKeys:
        queries = self.tiling.spans(self.attention.axes.extent)
        keys = self.tiling.spans(self.attention.key_extent)
        return HeldKeys(
            queries={axis: queries[axis] for axis in self.cut},
            keys={axis: rotated(keys[axis], turns[axis]) for axis in self.cut},
        )


def _names(calls: Mapping[str, Node]) -> dict[str, str]:
    return {operand: call.name for operand, call in calls.items()}


@rule("scaled_dot_product_attention", "spnb.attention")
def attention(node: Node) -> Rule | None:
    """The rule of attention, also of attention that a network writes out."""
    ranks = ranks_of(node)
    if node.args["dropout_p"] or len(set(ranks[:3])) > 1:
        return None
    batch = batch_labels(ranks[0] - 2)
    labels = [(*batch, "query", "in"), (*batch, "key", "in"), (*batch, "key", "out")]
    scores = (*batch, "query", "key")
    labels += [scores[len(scores) - rank :] for rank in ranks[3:]]
    return product(node, labels, (*batch, "query", "out"), RingAttention)
