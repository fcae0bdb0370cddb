"""From a stage's layout and a plan's exchanges to the programs of one rank.

A tile is computed at once, or in patches, one after the other, each of which reads its own part of
the image; so a rank holds the values of a patch only, and of the tile what others need of it::

    at once      read    compute …  send
    in patches   read  compute … keep │ read  compute … keep │ … │ send

(Lin et al., *MCUNetV2: Memory-efficient patch-based inference for tiny deep learning*, 2021, do the
same in the first layers of a network.)
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from ..ir.exchange import HOST, Exchange, Transfer, region_at
from ..ir.node import Node
from ..ir.program import Compute, Free, Keep, Program, Receive, Send, Step, receive_step
from ..ir.region import Region
from ..rules import rule_of
from ..rules.fused import Fused
from .needs import StageNeeds, extent_in
from .widen import widened

if TYPE_CHECKING:
    from .plan import Plan
    from .stage import Stage


def programs(plan: Plan, rank: int, images: int) -> tuple[Program, ...]:
    """What a rank runs for a micro-batch of this many images, one program after the other."""
    stage = plan.stage_of(rank)
    layout, position = plan.stage_needs[stage.index, images], stage.team.position(rank)
    exchanges = plan.exchanges[images]
    incoming = {e.value: e for e in exchanges if e.target is stage.team}
    outgoing = [e for e in exchanges if e.source is stage.team]
    graph = plan.graph
    sends: dict[str, list[Step]] = {}
    for e in outgoing:
        if transfers := e.sends(rank):
            step = Send(e.tag, e.value, e.kind, transfers, graph.axes[e.value])
            sends.setdefault(e.value, []).append(step)
    if stage.num_patches > 1:
        patches = _patches(plan, stage, images, layout, position, incoming, list(sends), rank)
        handed_over = tuple(step for steps in sends.values() for step in steps)
        return (*patches, Program(handed_over))
    receives = {
        value: receive_step(exchange, rank, graph.axes[value], graph.dtype_of(value))
        for value, exchange in incoming.items()
    }
    kept = {e.value for e in outgoing if e.target is plan.host}
    kept |= {v for v, e in incoming.items() if e.source is not stage.team}
    moved = {*incoming, *(e.value for e in outgoing)}
    steps = _steps(plan, stage, images, layout, position, receives, sends, kept, moved)
    return (Program(tuple(steps)),)


def _patches(
    plan: Plan,
    stage: Stage,
    images: int,
    tile: StageNeeds,
    position: Sequence[int],
    incoming: Mapping[str, Exchange],
    wanted: Sequence[str],
    rank: int,
) -> list[Program]:
    """A program for each patch of a tile: from the image to what others want of the tile."""
    layout, graph = plan.patch_needs[images], plan.graph
    ranges = [range(k * n, (k + 1) * n) for k, n in zip(position, stage.patches, strict=True)]
    found: list[Program] = []
    for patch in itertools.product(*ranges):
        receives = {}
        for value, exchange in incoming.items():
            region = region_at(layout.need[value], patch)
            of_value = (graph.axes[value], graph.dtype_of(value))
            reads = (Transfer(HOST, rank, region),)
            receives[value] = Receive(exchange.tag, value, "input", region, None, reads, *of_value)
        steps = _steps(
            plan, stage, images, layout, patch, receives, {}, wanted, incoming, held=wanted
        )
        last = len(found) + 1 == stage.num_patches
        for value in wanted:
            own, whole = region_at(layout.own[value], patch), region_at(tile.own[value], position)
            axes, dtype = graph.axes[value], graph.dtype_of(value)
            steps.append(Keep(value, own, whole, axes, dtype, last))
        found.append(Program(tuple(steps)))
    return found


def _steps(
    plan: Plan,
    stage: Stage,
    images: int,
    layout: StageNeeds,
    position: Sequence[int],
    receives: Mapping[str, Receive],
    sends: Mapping[str, Sequence[Step]],
    kept: Collection[str],
    moved: Collection[str],
    held: Collection[str] = (),
) -> list[Step]:
    """Steps that compute a stage on the regions of a layout at a position of its grid.

    Parameters
    ----------
    receives
        How each value arrives that does; before it is read for the first time.
    sends
        What follows as soon as a value is computed.
    kept
        Values that others hold on to, host, stage or tile.
    moved
        Values of which more comes or goes.
    held
        Values that are not freed after their last use.
    """
    live = [node for node in stage.nodes if node.name in layout.computed]
    last_use = {value: node.name for node in live for value in node.operands}
    number = {node.name: k for k, node in enumerate(stage.nodes)}
    receives = dict(receives)
    steps: list[Step] = []
    for node in live:
        for operand in dict.fromkeys(node.operands):
            if operand in receives:
                steps.append(receives.pop(operand))
        region = region_at(layout.computed[node.name], position)
        needs = plan.needs(node, region)
        clipped = tuple(
            need & Region.whole(extent_in(plan.graph, operand, images))
            for need, operand in zip(needs, node.operands, strict=True)
        )
        over = _overwritten(plan, node, live, moved, kept)
        overwrites = (
            over is not None
            and last_use[over] == node.name
            and layout.computed[over] == layout.computed[node.name]
        )
        steps.append(Compute(number[node.name], region, needs, clipped, overwrites))
        steps += sends.get(node.name, ())
        done = [v for v in dict.fromkeys(node.operands) if last_use[v] == node.name]
        if node.name not in last_use:
            done.append(node.name)
        if done := tuple(v for v in done if v not in held):
            steps.append(Free(done))
    # Without fused halos a value that is held wider would soon be cut again, to be exchanged.
    return widened(steps, stage.nodes) if plan.fused and not plan.graph.training else steps


def _overwritten(
    plan: Plan, node: Node, live: Sequence[Node], moved: Collection[str], kept: Collection[str]
) -> str | None:
    """What is added to a convolution, if the result may take its place after its last use.

    That is safe for what was made here and is not ``kept`` by others, host or stage, and of which
    nobody holds a view.  What the convolution reads must not be ``moved``: of a tile whose halo
    comes later the result is computed twice in part.
    """
    if not isinstance(rule_of(node), Fused) or node.args["other"] is None:
        return None
    value, made = node.args["other"].value, plan.graph.by_name
    if value not in made or value in kept or node.operands[0] in moved:
        return None
    readers = (reader for reader in live if value in reader.operands)
    calls = [made[value], *readers]
    alone = node.operands.count(value) == 1
    return value if alone and all(rule_of(call).allocates for call in calls) else None
