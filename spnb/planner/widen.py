"""Computes a little more than is needed, where that saves a copy of the tile.

PyTorch's convolutions pad both sides by the same number.  A tile at the border of the image, with a
fused halo, needs padding on one side only, so it would be copied into a padded tensor first.  If a
rank holds more columns of a value than are needed, the needed ones are not one run of memory, so
they would be copied as well.  Instead, all that the rank holds is convolved, padded on both sides::

      image's border │┌────── held of x ──────┐                 ┌── computed of y ──┬───────┐
                    0 │   needed     │  more  │ 0     ─►        │  right: needed    │ wrong │
                     │└───────────────────────┘                 └───────────────────┴───────┘

The result is wrong where it reads zeros in place of positions of x that other ranks have.  Those
positions are never used: later calls need the same region of y as before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..ir.axes import is_image, rows_beside
from ..ir.cost import CORE
from ..ir.node import Node, Weight
from ..ir.program import Compute, Program, Receive, Step, held_by_host
from ..ir.region import Region
from ..rules import Rule, rule_of
from ..rules.convolutions import Convolution


def widened(steps: Sequence[Step], nodes: Sequence[Node]) -> list[Step]:
    """Return the steps of a rank's program; some compute more than is needed, to save a copy.

    Parameters
    ----------
    steps
        Steps of the rank.
    nodes
        Calls of its stage.
    """
    # Not widened: values that the host receives, and values with a halo stored beside the tile.
    fixed = set(held_by_host(Program(tuple(steps)), nodes))
    fixed |= {step.value for step in steps if isinstance(step, Receive)}
    held: dict[str, Region] = {}
    core: dict[str, Region] = {}  # for values with a halo in memory of its own: the tile
    found: list[Step] = []
    for step in steps:
        if isinstance(step, Receive):
            if step.value in held:
                core[step.value] = held[step.value]
            held[step.value] = step.region
        elif isinstance(step, Compute):
            node = nodes[step.node]
            all_held = all(value in held for value in node.operands)
            if all_held and node.name not in fixed and not step.region.empty:
                pairs = zip(node.operands, step.clipped, strict=True)
                present = [core[v] if v in core and c in core[v] else held[v] for v, c in pairs]
                step = _widened(step, node, present, core)
            held[node.name] = step.region
        found.append(step)
    return found


def _widened(
    step: Compute, node: Node, held: Sequence[Region], core: Mapping[str, Region]
) -> Compute:
    """A step that computes more in place of a copy, where that takes less time.

    Parameters
    ----------
    held
        Region of each operand that lies in one run of memory.
    core
        For values with a halo in memory of its own: the region of the tile without the halo.
    """
    rule = rule_of(node)
    if not node.operands or not all(map(is_image, (node.axes, *node.operand_axes))):
        return step
    fixed_weight = isinstance(node.args.get("weight"), Weight)
    over_image = isinstance(rule, Convolution) and not any(
        axis in (None, 0) for axis in rule.places
    )
    if isinstance(rule, Convolution) and fixed_weight and over_image:
        own = core.get(node.operands[0])
        overlaps_halo = own is not None and rule.core_and_boundary(own, step.region)
        wider = None if overlaps_halo else _convolved(step, rule, held)
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
    """A convolution of all that is held in one run of memory; None if that is not possible."""
    node = rule.node
    needed, available = step.clipped[0], held[0]
    given, region = list(_in_one_run(available, needed).spans), list(step.region.spans)
    if Region(tuple(given)) == needed and not rule.scratch(needed, step.region):
        return None  # nothing would be copied
    for number, axis in enumerate(rule.places):
        assert axis is not None  # `_widened` asks for convolutions over axes of the image only
        s, p = rule.stride[number], rule.padding[number]
        (low, high), first = given[axis], needed.spans[axis][0]
        # The first window of the given region must be one of the whole image's windows.
        low -= low % s if low - low % s >= available.spans[axis][0] else low % s - s
        start, count = low // s, rule.count(number, high - low + 2 * p)
        wanted = region[axis]
        if low > first or start > wanted[0] or start + count < wanted[1]:
            return None
        given[axis], region[axis] = (low, high), (start, start + count)
    wider, clipped = Region(tuple(region)), [Region(tuple(given))]
    if len(node.operands) > 1:  # an operand is added to the result
        clipped.append(wider)
    if any(c not in region for c, region in zip(clipped, held, strict=True)):
        return None
    return replace(
        step, region=wider, needs=tuple(clipped), clipped=tuple(clipped), padding=rule.padding
    )


def _elementwise(step: Compute, node: Node, held: Sequence[Region]) -> Compute | None:
    """An elementwise call on the region that all operands hold in one run of memory."""
    if any(axes.extent != node.axes.extent for axes in node.operand_axes):
        return None
    pairs = zip(held, step.clipped, strict=True)
    common, *others = {_in_one_run(available, needed) for available, needed in pairs}
    if others or common == step.region:
        return None
    regions = (common,) * len(node.operands)
    return replace(step, region=common, needs=regions, clipped=regions)


def _in_one_run(held: Region, needed: Region) -> Region:
    """The smallest region in one run of memory that contains the needed region of a value.

    Positions lie row by row, so the rows of a single image may be cut, but no columns.
    """
    if held.shape[0] > 1:
        return held
    return Region((*needed.spans[:2], *held.spans[2:]))
