"""Cuts another part of an axis where a network works on positions that lie apart.

A view of ``H`` rows as ``(outer, inner)`` may cut either part.  By default ``outer`` is cut, so
tiles have whole windows of neighbours.  A window of a grid has one position of each of ``outer``
runs, so there ``inner`` must be cut::

    x.view(b, H // 7, 7, w, c)     attention over the last 7     H // 7 is cut: outer
    x.view(b, 7, H // 7, w, c)     attention over the first 7    H // 7 is cut: inner

Which one is meant shows only later, where a call reads all of a part that is cut.  Then the views
that led there are tried with the other part, and what needs fewer whole values is taken.

Attention could also pass the keys of each tile round all tiles (see `spnb.rules.ring`).  That sends
more, but it is taken where ``inner`` has so few positions that some tiles would have none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from ...errors import CaptureError
from ...ir.axes import Axes
from ...ir.node import Node
from ...ir.tiling import Tiling
from ...rules import rule_of, whole_axes
from ...rules.attention import Attention
from ...rules.matmul import Product
from .placement import with_axes
from .view_changes import Change, changes, with_cuts

LEAST_INNER = 4
"""Fewer positions are not shared out among tiles where keys can go round instead."""

MOST_TRIED = 12
"""The most changes that are tried for one call."""


@dataclass(frozen=True)
class Costs:
    """What counts as a whole value.

    Attributes
    ----------
    tiling
        A grid that cuts every axis of the image.
    before_attention
        Whether attention counts, though its keys could go round the tiles.
    """

    tiling: Tiling
    before_attention: bool

    def of(self, node: Node) -> int:
        """How many values a call needs whole, each axis counted by itself."""
        rule, whole = rule_of(node), self.axes(node)
        if not whole or (self.before_attention and isinstance(rule, Attention)):
            return len(whole)
        return sum(
            len(whole_axes(rule_of(call), number, self.tiling))
            for call in rule.lower(self.tiling)
            for number in range(len(call.operands))
        )

    def axes(self, node: Node) -> set[int]:
        """The axes along which a call, as the network has it, needs a whole operand."""
        rule, operands = rule_of(node), range(len(node.operands))
        return {axis for number in operands for axis in whole_axes(rule, number, self.tiling)}

    def allow(self, change: Change, placed: Sequence[Node]) -> bool:
        """Whether a change is better than keys that go round."""
        if not self.before_attention or not isinstance(rule_of(placed[-1]), Product):
            return True
        if change.op == "held_whole":
            return False
        extent = placed[change.views[0]].operand_axes[0].extent
        inner = (extent[axis] // outer for axis, outer in change.outer.items())
        return change.op != "cut_inner" or min(inner) >= LEAST_INNER


def with_redistribution(
    nodes: Sequence[Node], inputs: Mapping[str, Axes], before_attention: bool = False
) -> list[Node]:
    """Return the calls with those between them that cut another part of an axis.

    Parameters
    ----------
    nodes
        The calls of a network, with their axes.
    inputs
        Axes of each input of the network.
    before_attention
        Whether attention that the network writes out is not yet one call.
    """
    rank = next(iter(inputs.values())).rank
    costs = Costs(Tiling.even((1, *[2] * (rank - 1))), before_attention)
    placed: list[Node] = []
    axes = dict(inputs)
    for node in nodes:
        placed.append(_with_present_axes(node, axes, rank))
        axes[node.name] = placed[-1].axes
        while costs.of(placed[-1]) and rule_of(placed[-1]).known:
            better = _better(placed, inputs, costs)
            if better is None:
                break
            placed = better
            axes = {**inputs, **{node.name: node.axes for node in placed}}
    return placed


def _placed(nodes: Sequence[Node], inputs: Mapping[str, Axes], start: int) -> list[Node]:
    """The calls with their axes, which are known before the call with number ``start``."""
    placed = list(nodes[:start])
    axes = {**inputs, **{node.name: node.axes for node in placed}}
    rank = next(iter(inputs.values())).rank
    for node in nodes[start:]:
        placed.append(_with_present_axes(node, axes, rank))
        axes[node.name] = placed[-1].axes
    return placed


def _with_present_axes(node: Node, axes: Mapping[str, Axes], rank: int) -> Node:
    """A call with the axes that follow from those of its operands."""
    if tuple(axes[value] for value in node.operands) == node.operand_axes:
        return node
    return with_axes(node, axes, rank)


def _better(placed: Sequence[Node], inputs: Mapping[str, Axes], costs: Costs) -> list[Node] | None:
    """The calls with the change that spares the last call most; None if none spares it anything."""
    best, least = None, 0
    allowed = (
        change for change in changes(placed, costs.axes(placed[-1])) if costs.allow(change, placed)
    )
    for change in islice(allowed, MOST_TRIED):
        try:
            trial = _applied(change, placed, inputs)
        except CaptureError:  # a rule does not know what to do with such axes
            continue
        before, after = (sum(map(costs.of, c[change.views[0] :])) for c in (placed, trial))
        if after - before < least:
            best, least = trial, after - before
        if best is trial and not costs.of(trial[-1]):
            break
    return best


def _applied(change: Change, placed: Sequence[Node], inputs: Mapping[str, Axes]) -> list[Node]:
    """The calls with a change, and the axes that follow from it."""
    every = list(placed)
    for number in reversed(change.views):
        every[number : number + 1] = with_cuts(placed[number], change, f"cut{len(placed)}")
    return _placed(every, inputs, change.views[0])
