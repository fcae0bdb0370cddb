"""The views before or after which an axis can be cut in another way, and the calls that do it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from ...ir.axes import Axes
from ...ir.cyclic_axes import can_cut_whole
from ...ir.node import Node, Ref
from ...rules import rule_of
from ...rules.cyclic_cut import CutInner
from ...rules.held_whole import LEAST_COPIES
from ...rules.views import VIEWS

COPIES = ("expand", "repeat")
"""Operators that copy a value along dimensions."""

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
        ``cut_inner`` before the views, or ``cut_whole`` after them; ``held_whole`` before copies.
    outer
        By axis, the number of positions of the slower part.
    """

    views: tuple[int, ...]
    op: str
    outer: Mapping[int, int]


def with_cuts(view: Node, change: Change, mark: str) -> list[Node]:
    """A view with the calls before or after it that cut its axes in another way.

    Parameters
    ----------
    mark
        Text in the names of new calls, other than in those of an earlier change.
    """
    first = change.op != "cut_whole"
    axes = view.operand_axes[0] if first else view.axes
    value = view.args["self"].value if first else f"{view.name}.rows"
    calls: list[Node] = []
    for axis, outer in change.outer.items():
        args = {"self": Ref(value), "axis": axis, "outer": outer}
        value, op = f"{view.name}.{mark}.{axis}", f"spnb.{change.op}.default"
        calls.append(replace(view, name=value, op=op, args=args, axes=axes, operand_axes=()))
    if change.op == "held_whole":
        args, name = {"self": Ref(value)}, f"{view.name}.{mark}"
        op, value = "spnb.held_whole.default", name
        calls.append(replace(view, name=name, op=op, args=args, axes=axes, operand_axes=()))
    if first:
        return [*calls, replace(view, args={**view.args, "self": Ref(value)}, operand_axes=())]
    calls[-1] = replace(calls[-1], name=view.name)
    return [replace(view, name=f"{view.name}.rows"), *calls]


def changes(placed: Sequence[Node], wanted: set[int]) -> Iterator[Change]:
    """The changes that may spare the last call a whole value, the nearest views first.

    Views of one shape are changed together first: those of the queries and the keys, say.

    Parameters
    ----------
    placed
        The calls up to the one that needs whole values, with their axes.
    wanted
        The axes along which it needs them.
    """
    outers = _outers(placed)
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
        if node.kind in (*VIEWS, *COPIES):
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
    if view.kind in COPIES:
        if math.prod(after.shape) >= LEAST_COPIES * math.prod(before.shape):
            yield Change((number,), "held_whole", {})
        return
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
