"""Cuts another part of an axis where a network works on positions that lie apart.

A view of ``H`` rows as ``(outer, inner)`` may cut either part.  Windows of neighbours are one
position of ``outer``, so that part is cut by default; for a grid, whose windows have one position
of each of ``outer`` runs, ``inner`` is the right one::

    x.view(b, H // 7, 7, w, c)     attention over the last 7     cut H // 7
    x.view(b, 7, H // 7, w, c)     attention over the first 7    cut H // 7, too

Which one is meant shows only later, where a call reads all of a part that is cut.  Then the views
that led there are tried with the other part, and what needs fewer whole values is taken.

Attention could also pass the keys of each tile round all tiles (see `spnb.rules.ring`).  That sends
more, but it is taken where ``inner`` has so few positions that some tiles would have none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import Any

from ..errors import CaptureError
from ..ir.axes import Axes
from ..ir.node import Node, Ref
from ..ir.region import Tiling
from ..rules import rule_of, whole_axes
from ..rules.attention import Attention
from ..rules.cyclic_cut import CutInner, can_cut_whole
from ..rules.matmul import Product
from ..rules.views import VIEWS
from .placement import with_axes

LEAST_INNER = 4
"""Fewer positions are not shared out among tiles where keys can go round instead."""

MOST_TRIED = 12
"""The most changes that are tried for one call."""

MOST_SEEN = 200
"""The most calls that are looked at for one call, back from it."""


@dataclass(frozen=True)
class Change:
    """Another way to cut some axes, before or after views of one shape.

    Attributes
    ----------
    views
        Numbers of the views among the calls, in order.
    op
        ``cut_inner`` before the views, or ``cut_whole`` after them.
    outer
        By axis, the number of positions of the slower part.
    """

    views: tuple[int, ...]
    op: str
    outer: Mapping[int, int]


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
        """Whether a change leaves enough positions to share out."""
        if not self.before_attention or not isinstance(rule_of(placed[-1]), Product):
            return True
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
    changed = False
    for node in nodes:
        placed = _placed([*placed, node], inputs, len(placed)) if changed else [*placed, node]
        while costs.of(placed[-1]) and rule_of(placed[-1]).known:
            better = _better(placed, inputs, costs)
            if better is None:
                break
            placed, changed = better, True
    return placed


def _placed(nodes: Sequence[Node], inputs: Mapping[str, Axes], start: int) -> list[Node]:
    """The calls with their axes, which are known before the call with number ``start``."""
    placed = list(nodes[:start])
    axes = {**inputs, **{node.name: node.axes for node in placed}}
    rank = next(iter(inputs.values())).rank
    for node in nodes[start:]:
        if tuple(axes[value] for value in node.operands) != node.operand_axes:
            node = with_axes(node, axes, rank)
        placed.append(node)
        axes[node.name] = node.axes
    return placed


def _better(placed: Sequence[Node], inputs: Mapping[str, Axes], costs: Costs) -> list[Node] | None:
    """The calls with the change that spares the last call most; None if none spares it anything."""
    best, least = None, 0
    allowed = (change for change in _changes(placed, costs) if costs.allow(change, placed))
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
        every[number : number + 1] = _with_cuts(placed[number], change, f"cut{len(placed)}")
    return _placed(every, inputs, change.views[0])


def _with_cuts(view: Node, change: Change, mark: str) -> list[Node]:
    """A view with the calls before or after it that cut its axes in another way.

    Parameters
    ----------
    mark
        Text in the names of new calls, other than in those of an earlier change.
    """
    first = change.op == "cut_inner"
    axes = view.operand_axes[0] if first else view.axes
    value = view.args["self"].value if first else f"{view.name}.rows"
    calls: list[Node] = []
    for axis, outer in change.outer.items():
        args = {"self": Ref(value), "axis": axis, "outer": outer}
        value, op = f"{view.name}.{mark}.{axis}", f"spnb.{change.op}.default"
        calls.append(replace(view, name=value, op=op, args=args, axes=axes, operand_axes=()))
    if first:
        return [*calls, replace(view, args={**view.args, "self": Ref(value)}, operand_axes=())]
    calls[-1] = replace(calls[-1], name=view.name)
    return [replace(view, name=f"{view.name}.rows"), *calls]


def _changes(placed: Sequence[Node], costs: Costs) -> Iterator[Change]:
    """The changes that may spare the last call a whole value, the nearest views first.

    Views of one shape are changed together first: those of the queries and the keys, say.
    """
    wanted, outers = costs.axes(placed[-1]), _outers(placed)
    alike: dict[Any, tuple[list[int], Change]] = {}
    for number in _views_before(placed, wanted):
        view = placed[number]
        for change in _changes_at(number, view, wanted, outers):
            key = (change.op, tuple(change.outer.items()), view.operand_axes[0], view.shape)
            alike.setdefault(key, ([], change))[0].append(number)
    for numbers, change in alike.values():
        if len(numbers) > 1:
            yield replace(change, views=tuple(sorted(numbers)))
        for number in numbers:
            yield replace(change, views=(number,))


def _views_before(placed: Sequence[Node], wanted: set[int]) -> Iterator[int]:
    """Numbers of the views on the way to the last call, up to those that divide wanted axes."""
    numbers = {node.name: number for number, node in enumerate(placed)}
    waiting = deque([placed[-1].name])
    seen = set(waiting)
    while waiting and len(seen) < MOST_SEEN:
        number = numbers.get(waiting.popleft())
        if number is None:
            continue  # an input of the network
        node = placed[number]
        if node.kind in VIEWS:
            yield number
        for value, axes in zip(node.operands, node.operand_axes, strict=True):
            not_coarser = any(1 < axes.extent[a] <= node.axes.extent[a] for a in wanted)
            if value not in seen and (not_coarser or node is placed[-1]):
                seen.add(value)
                waiting.append(value)


def _outers(placed: Sequence[Node]) -> dict[int, list[int]]:
    """By axis, the slower parts that some calls do not cut."""
    found: dict[int, list[int]] = {}
    for node in placed:
        if isinstance(rule := rule_of(node), CutInner):
            found.setdefault(rule.axis, []).append(rule.outer)
    return found


def _changes_at(
    number: int, view: Node, wanted: set[int], outers: Mapping[int, Sequence[int]]
) -> Iterator[Change]:
    """The changes before and after a view, of all wanted axes together and of each by itself."""
    before, after = view.operand_axes[0], view.axes
    inner = {a: _outers_in_view(before, a, view.shape) for a in wanted}
    whole = {a: _outers_before(after, a, outers.get(a, ())) for a in wanted}
    for op, options in (("cut_inner", inner), ("cut_whole", whole)):
        possible = {a: found for a, found in options.items() if found}
        if len(possible) > 1:
            yield Change((number,), op, {a: found[0] for a, found in possible.items()})
        for axis, found in possible.items():
            for outer in found:
                yield Change((number,), op, {axis: outer})


def _outers_in_view(axes: Axes, axis: int, shape: Sequence[int]) -> list[int]:
    """Numbers of positions into which the dimensions of a view divide an axis."""
    before = 1
    for factor in (factor for factors in axes.dims for factor in factors):
        if factor.axis == axis:
            break
        before *= factor.size
    else:
        return []
    found, reached = [], 1
    for size in shape:
        reached *= size
        outer, rest = divmod(reached, before)
        if not rest and 1 < outer < factor.size and factor.size % outer == 0:
            found.append(outer)
    return list(dict.fromkeys(found))


def _outers_before(axes: Axes, axis: int, known: Sequence[int]) -> list[int]:
    """Numbers of positions before an axis, in its dimension, that may be cut together with it."""
    pairs = (pair for d in axes.dims for pair in pairwise(d))
    sizes = [before.size for before, here in pairs if here.axis == axis and before.axis is None]
    found = dict.fromkeys([*reversed(known), *sizes])
    return [outer for outer in found if can_cut_whole(axes, axis, outer)]
