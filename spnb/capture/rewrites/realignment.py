"""Cuts a turned image as the image that it meets: ``x + x.mT``, ``torch.rot90(x) + x``.

A permutation leaves the axes of the image with their dimensions, so the sum would need one of its
operands whole.  Here other dimensions of that operand are cut (see `spnb.rules.realigned`), if the
call then needs fewer whole values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch

from ...errors import CaptureError
from ...ir.axes import Axes, Dim
from ...ir.node import Node, Ref, map_leaves
from ...ir.tiling import Tiling
from ...rules import rule_of
from .placement import with_axes
from .redistribution import Costs


def with_realignment(
    nodes: Sequence[Node], inputs: Mapping[str, Axes], dtype: torch.dtype
) -> list[Node]:
    """Return the calls with those between them that cut other dimensions of a value.

    Parameters
    ----------
    nodes
        The calls of a network, with their axes.
    inputs, dtype
        Axes of each input of the network, and their type.
    """
    rank = next(iter(inputs.values())).rank
    costs = Costs(Tiling.even((1, *[2] * (rank - 1))), before_attention=False)
    axes, types = dict(inputs), dict.fromkeys(inputs, dtype)
    known: dict[tuple[str, Axes], Node] = {}
    found: list[Node] = []
    for node in nodes:
        if tuple(axes[value] for value in node.operands) != node.operand_axes:
            node = with_axes(node, axes, rank)
        calls = _realigned(node, types, known, costs) if len(node.operands) > 1 else [node]
        for call in calls:
            axes[call.name], types[call.name] = call.axes, call.dtype
        found += calls
    return found


def _realigned(
    node: Node,
    types: Mapping[str, torch.dtype],
    known: dict[tuple[str, Axes], Node],
    costs: Costs,
) -> list[Node]:
    """A call, after those that realign its operands if that is better."""
    best, least = [node], costs.of(node)
    if not least or not rule_of(node).known:
        return best
    given = dict(zip(node.operands, node.operand_axes, strict=True))
    for wanted in _alignments(given):
        made = {
            value: known.get((value, target)) or _call(node, value, given[value], target, types)
            for value, target in wanted.items()
        }
        args = {k: map_leaves(_renamed(made), arg) for k, arg in node.args.items()}
        new = {**given, **{call.name: call.axes for call in made.values()}}
        try:
            trial = with_axes(replace(node, args=args), new, node.axes.rank)
        except CaptureError:  # the rule does not know what to do with such axes
            continue
        if (cost := costs.of(trial)) < least:
            fresh = [call for value, call in made.items() if (value, call.axes) not in known]
            best, least = [*fresh, trial], cost
    for call in best[:-1]:
        known[call.operands[0], call.axes] = call
    return best


def _renamed(made: Mapping[str, Node]) -> Callable[[object], object]:
    """The function that replaces a value by the same value, cut in another way."""
    names = {Ref(value): Ref(call.name) for value, call in made.items()}
    return lambda leaf: names.get(leaf, leaf) if isinstance(leaf, Ref) else leaf


def _call(
    node: Node, value: str, axes: Axes, target: Axes, types: Mapping[str, torch.dtype]
) -> Node:
    """The call that cuts other dimensions of a value."""
    args = {"self": Ref(value), "axes": target}
    name = f"{node.name}.{value}.aligned"
    op = "spnb.realigned.default"
    return Node(name, op, args, target, types[value], (axes,), node.path)


def _alignments(given: Mapping[str, Axes]) -> Iterator[dict[str, Axes]]:
    """For each operand, first those cut like an image, the axes that others need to be like it."""

    def is_turned(axes: Axes) -> bool:
        order = [f.axis for factors in axes.dims for f in factors if f.axis is not None]
        return order != sorted(order)

    for first in sorted(given.values(), key=is_turned):
        like_first = {value: _like(axes, first) for value, axes in given.items()}
        if found := {value: axes for value, axes in like_first.items() if axes != given[value]}:
            yield found


def _like(axes: Axes, other: Axes) -> Axes:
    """Axes with the axes of another tensor in dimensions of the same size; else unchanged."""
    before = len(axes.dims) - len(other.dims)
    dims: list[Dim] = list(axes.dims)
    for number in range(max(0, before), len(dims)):
        there = other.dims[number - before]
        if [f.size for f in there] == [f.size for f in dims[number]]:
            dims[number] = there
    changed = axes.with_dims(dims)
    pairs = zip(axes.factors, changed.factors, strict=True)
    kept = all(a.axis == b.axis for a, b in pairs if not (a.axis and b.axis))  # not of space
    held = [f.axis for f in changed.factors if f.axis is not None]
    return changed if kept and len(set(held)) == len(held) else axes
