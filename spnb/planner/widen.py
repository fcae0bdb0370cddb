"""Computes a little more than is needed, where that saves a copy of the tile.

PyTorch's convolutions pad both sides alike.  A tile at the border of the image, with a fused halo,
needs padding on one side only: so it would be copied into a padded tensor first.  And where more
columns are held of a value than are needed, those needed are no run of memory: they would be copied
as well.  Instead all that is at hand is convolved, padded on both sides::

      image's border │┌────── held of x ──────┐                 ┌── computed of y ──┬───────┐
                    0 │   needed     │  more  │ 0     ─►        │  right: needed    │ wrong │
                     │└───────────────────────┘                 └───────────────────┴───────┘

Wrong is what reads zeros where others have positions of x.  Nobody reads it: later calls read of y
what they read without this, and what they compute of other positions is not read either.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..ir.axes import is_image, rows_beside
from ..ir.cost import CORE
from ..ir.node import Node
from ..ir.program import Compute, Program, Receive, Step, held_by_host
from ..ir.region import Region
from ..rules import Rule, rule_of
from ..rules.windows import Convolution


def widened(steps: Sequence[Step], nodes: Sequence[Node]) -> list[Step]:
    """The steps of a rank's program, of which some compute more in place of a copy.

    Parameters
    ----------
    steps
        Of the rank.
    nodes
        Of its stage.
    """
    fixed = set(held_by_host(Program(tuple(steps)), nodes))  # the host gets no more than it wants
    fixed |= {step.value for step in steps if isinstance(step, Receive)}  # more comes beside it
    held: dict[str, Region] = {}
    apart: dict[str, Region] = {}  # of values whose halo lies beside them, what is no halo
    found: list[Step] = []
    for step in steps:
        if isinstance(step, Receive):
            if step.value in held:
                apart[step.value] = held[step.value]
            held[step.value] = step.region
        elif isinstance(step, Compute):
            node = nodes[step.node]
            here = all(value in held for value in node.operands)
            if here and node.name not in fixed and not step.region.empty:
                pairs = zip(node.operands, step.clipped, strict=True)
                at_hand = [apart[v] if v in apart and c in apart[v] else held[v] for v, c in pairs]
                step = _widened(step, node, at_hand, apart)
            held[node.name] = step.region
        found.append(step)
    return found


def _widened(
    step: Compute, node: Node, held: Sequence[Region], apart: Mapping[str, Region]
) -> Compute:
    """A step that computes more in place of a copy, where that takes less time.

    Parameters
    ----------
    held
        Region of each operand that lies in one run of memory.
    apart
        Of values whose halo lies beside them, what is no halo.
    """
    rule = rule_of(node)
    if not node.operands or not all(map(is_image, (node.axes, *node.operand_axes))):
        return step
    if isinstance(rule, Convolution) and not any(axis in (None, 0) for axis in rule.places):
        own = apart.get(node.operands[0])
        early = own is not None and rule.core_and_boundary(own, step.region)
        wider = None if early else _convolved(step, rule, held)
    elif type(rule) is Rule and rule.any_layout:
        wider = _elementwise(step, node, held)
    else:
        wider = None
    if wider is None:
        return step
    if wider.overwrites:
        other = held[-1]
        beside = other == wider.region or rows_beside(other, wider.region, node.axes)
        wider = replace(wider, overwrites=beside)
    extra = (wider.region.size - step.region.size) / math.prod(node.axes.extent)
    saved = 2 * step.clipped[0].size * node.operand_axes[0].channels * node.dtype.itemsize
    return wider if CORE.seconds(node, extra) < CORE.launch + saved / CORE.memory else step


def _convolved(step: Compute, rule: Convolution, held: Sequence[Region]) -> Compute | None:
    node = rule.node
    needed, at_hand = step.clipped[0], held[0]
    given, region = list(_in_one_run(at_hand, needed).spans), list(step.region.spans)
    if Region(tuple(given)) == needed and not rule.scratch(needed, step.region):
        return None  # nothing would be copied
    for number, axis in enumerate(rule.places):
        s, p = rule.stride[number], rule.padding[number]
        (low, high), first = given[axis], needed.spans[axis][0]
        # The first window of what is given must be one of the whole image's windows.
        low -= low % s if low - low % s >= at_hand.spans[axis][0] else low % s - s
        start, count = low // s, rule.count(number, high - low + 2 * p)
        wanted = region[axis]
        if low > first or start > wanted[0] or start + count < wanted[1]:
            return None
        given[axis], region[axis] = (low, high), (start, start + count)
    wider, clipped = Region(tuple(region)), [Region(tuple(given))]
    if len(node.operands) > 1:  # what is added to it
        clipped.append(wider)
    if any(c not in region for c, region in zip(clipped, held, strict=True)):
        return None
    return replace(
        step, region=wider, needs=tuple(clipped), clipped=tuple(clipped), padding=rule.padding
    )


def _elementwise(step: Compute, node: Node, held: Sequence[Region]) -> Compute | None:
    if any(axes.extent != node.axes.extent for axes in node.operand_axes):
        return None
    pairs = zip(held, step.clipped, strict=True)
    common, *others = {_in_one_run(at_hand, needed) for at_hand, needed in pairs}
    if others or common == step.region:
        return None
    regions = (common,) * len(node.operands)
    return replace(step, region=common, needs=regions, clipped=regions)


def _in_one_run(held: Region, needed: Region) -> Region:
    """What is needed of a value, and as much more of it as makes that one run of memory.

    Positions lie row by row, so the rows of a single image may be cut, but no columns.
    """
    if held.shape[0] > 1:
        return held
    return Region((*needed.spans[:2], *held.spans[2:]))
