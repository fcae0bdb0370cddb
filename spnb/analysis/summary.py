"""A plan at a glance: stages, grids, messages, bytes, work and memory."""

from __future__ import annotations

from ..display.cards import Card, Table, counted, size_text, stage_grid
from ..ir.program import Compute
from ..ir.region import Region
from ..planner.needs import extent_in
from ..planner.plan import Plan
from .memory import memory, value_bytes
from .patched_memory import disk_bytes
from .sample_ranks import sample_ranks
from .segments import segments_of
from .traffic import totals, traffic
from .training_memory import TrainingMemory, held_at_once

HEADINGS = (
    "stage",
    "blocks",
    "grid",
    "ranks",
    "tile",
    "messages",
    "sent",
    "weights",
    "activations",
)


def rows(plan: Plan) -> list[tuple[str, ...]]:
    """Return a row of text for each stage, under `HEADINGS`: the largest figure of its ranks."""
    return [
        _row(plan, stage.index, weights, values)
        for stage, (weights, values) in zip(plan.stages, memory(plan), strict=True)
    ]


def _row(plan: Plan, number: int, weights: int, values: int) -> tuple[str, ...]:
    """Return the row of a stage, from the bytes of weights and of values that its ranks hold."""
    stage = plan.stages[number]
    first, last = stage.team.ranks[0], stage.team.ranks[-1]
    sends = [traffic(plan, rank) for rank in sample_ranks(plan, number)]
    return (
        str(number),
        f"{stage.blocks[0]}-{stage.blocks[1] - 1}",
        "×".join(map(str, stage.team.tiling.grid[1:])) if stage.tiled else "whole",
        f"{first}-{last}" if last > first else f"{first}",
        "×".join(map(str, plan.tile_region(first).shape[1:])),
        str(max(messages for messages, _ in sends)),
        size_text(max(size for _, size in sends)),
        size_text(weights),
        size_text(values),
    )


def describe(plan: Plan, name: str) -> Card:
    """Return the card of a plan: its figures in one pass over the batch, and its grids of ranks.

    Parameters
    ----------
    plan
        The plan.
    name
        Name of its network.
    """
    return Card(
        _title(plan, name),
        [
            _sums_text(plan),
            Table(HEADINGS, rows(plan)),
            *patches_text(plan),
            *recomputed_text(plan),
            *gathered_text(plan),
        ],
        [stage_grid(stage.index, stage.team) for stage in plan.stages],
    )


def _title(plan: Plan, name: str) -> str:
    batch, *size = plan.graph.extent(next(iter(plan.graph.inputs)))
    title = (
        f"{name}: {counted(batch, 'image')} of {'×'.join(map(str, size))}"
        f" in {counted(len(plan.micro_batch_sizes), 'part')},"
        f" {counted(len(plan.graph.blocks), 'block')},"
        f" {counted(len(plan.graph.nodes), 'operator')}; {counted(plan.num_ranks, 'rank')}"
        f"{replicas_text(plan)}"
    )
    return f"{title}, to be trained" if plan.graph.training else title


def _sums_text(plan: Plan) -> str:
    halo_text = "before each window operator"
    if plan.fused:
        halo_text = f"once for {plan.fused} blocks" if plan.fused < 1 << 20 else "once for all"
    sums = totals(plan)
    return (
        f"halos exchanged {halo_text}: {counted(sums.exchanges, 'exchange')},"
        f" {counted(sums.messages, 'message')}, {size_text(sums.bytes)} in all;"
        f" redundant work {sums.redundant:.1%}"
    )


def replicas_text(plan: Plan) -> str:
    """Return the number of replicas as a text; an empty one for a single replica."""
    replicas = plan.replicas
    texts = [f"{replicas.count} replicas"] if replicas.count > 1 else []
    if replicas.times:
        texts.append(f"with {replicas.times} pair{'s' * (replicas.times > 1)} of mirrored turns")
    return f", {' '.join(texts)}" if texts else ""


def patches_text(plan: Plan) -> list[str]:
    """Return a line for each stage that computes its tiles in patches."""
    if plan.finer is not None:
        stage = plan.stages[0]
        most = max(disk_bytes(plan, rank) for rank in sample_ranks(plan, stage.index))
        return [
            f"stage {stage.index}: each tile in {'×'.join(map(str, plan.patches))} patches, in"
            f" turns; they exchange halos and figures of the image, and their values wait on disk:"
            f" {size_text(most)} a rank"
        ]
    return [
        f"stage {stage.index}: each tile in {'×'.join(map(str, stage.patches[1:]))} patches, one"
        " after the other"
        for stage in plan.stages
        if stage.num_patches > 1
    ]


def recomputed_text(plan: Plan) -> list[str]:
    """Return a line for each stage on what training computes again, and what that saves."""
    if not (plan.graph.training and plan.recompute) or plan.finer is not None:
        return []
    lines = []
    for stage in plan.stages:
        rank = stage.team.ranks[0]
        segments, count = segments_of(plan, rank), held_at_once(plan, rank)
        all_held, less = TrainingMemory(plan, rank), TrainingMemory(plan, rank, segments)
        steps = [step for step in less.program.steps if isinstance(step, Compute)]
        again = sum(isinstance(step, Compute) for step in less.program.steps[: segments.stop])
        lines.append(
            f"stage {stage.index}: {again} of {counted(len(steps), 'operator')} computed again, in"
            f" {counted(len(segments.starts), 'segment')}: at most"
            f" {size_text(less.peak + (count - 1) * less.saved)} of values, in place of"
            f" {size_text(all_held.peak + (count - 1) * all_held.saved)}"
        )
    return lines


def gathered_text(plan: Plan) -> list[str]:
    """Return a line for each value that every tile of a stage gathers whole, and its cost."""
    images = plan.micro_batch_sizes[0]
    lines = []
    for (number, value), reader in plan.gathered.items():
        whole = Region.whole(extent_in(plan.graph, value, images))
        lines.append(
            f"gathered on every tile of stage {number}, for {reader.label}: {value},"
            f" {size_text(value_bytes(plan, value, whole))}, of which"
            f" {size_text(_arriving_bytes(plan, number, value))} from other tiles"
        )
    return lines


def _arriving_bytes(plan: Plan, number: int, value: str) -> int:
    """Return the most bytes of a gathered value that a rank of a stage receives."""
    images, team = plan.micro_batch_sizes[0], plan.stages[number].team
    return max(
        (
            sum(value_bytes(plan, value, t.region) for t in exchange.receives(rank))
            for exchange in plan.exchanges[images]
            if exchange.value == value and exchange.target is team
            for rank in sample_ranks(plan, number)
        ),
        default=0,
    )
