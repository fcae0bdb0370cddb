"""A plan at a glance: stages, grids, messages, bytes, work and memory."""

from __future__ import annotations

from ..display.cards import Card, Table, counted, size_text, stage_grid
from ..ir.region import Region
from ..planner.needs import extent_in
from ..planner.plan import Plan
from .survey import memory, sample_ranks, totals, traffic, value_bytes

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
    """A row of text for each stage, under `HEADINGS`; the largest figure of its ranks."""
    found = []
    for stage, (weights, values) in zip(plan.stages, memory(plan), strict=True):
        part_ranks = sample_ranks(plan, stage.index)
        first, last = stage.team.ranks[0], stage.team.ranks[-1]
        sends = [traffic(plan, rank) for rank in part_ranks]
        region = plan.tile_region(first)
        found.append(
            (
                str(stage.index),
                f"{stage.blocks[0]}-{stage.blocks[1] - 1}",
                "×".join(map(str, stage.team.tiling.grid[1:])) if stage.tiled else "whole",
                f"{first}-{last}" if last > first else f"{first}",
                "×".join(map(str, region.shape[1:])),
                str(max(m for m, _ in sends)),
                size_text(max(b for _, b in sends)),
                size_text(weights),
                size_text(values),
            )
        )
    return found


def describe(plan: Plan, name: str) -> Card:
    """A plan as a small table, of a rank of each stage in one pass over the batch, and as grids."""
    batch, *size = plan.graph.extent(next(iter(plan.graph.inputs)))
    head = (
        f"{name}: {counted(batch, 'image')} of {'×'.join(map(str, size))}"
        f" in {counted(len(plan.micro_batch_sizes), 'part')},"
        f" {counted(len(plan.graph.blocks), 'block')},"
        f" {counted(len(plan.graph.nodes), 'operator')}; {counted(plan.num_ranks, 'rank')}"
        + copies_text(plan)
        + ", to be trained" * plan.graph.training
    )
    halo_text = "before each window operator"
    if plan.fused:
        halo_text = f"once for {plan.fused} blocks" if plan.fused < 1 << 20 else "once for all"
    all_ranks = totals(plan)
    sums = (
        f"halos exchanged {halo_text}: {counted(all_ranks.exchanges, 'exchange')},"
        f" {counted(all_ranks.messages, 'message')}, {size_text(all_ranks.bytes)} in all;"
        f" redundant work {all_ranks.redundant:.1%}"
    )
    return Card(
        head,
        [sums, Table(HEADINGS, rows(plan)), *patches_text(plan), *gathered_text(plan)],
        [stage_grid(stage.index, stage.team) for stage in plan.stages],
    )


def copies_text(plan: Plan) -> str:
    """How often the plan is there, if more than once."""
    replicas = plan.replicas
    texts = [f"{replicas.count} replicas"] if replicas.count > 1 else []
    if replicas.times:
        texts.append(f"with {replicas.times} pair{'s' * (replicas.times > 1)} of mirrored turns")
    return f", {' '.join(texts)}" if texts else ""


def patches_text(plan: Plan) -> list[str]:
    """A line for a stage whose tiles are computed in patches."""
    return [
        f"stage {stage.index}: each tile in {'×'.join(map(str, stage.patches[1:]))} patches, one"
        " after the other"
        for stage in plan.stages
        if stage.num_patches > 1
    ]


def gathered_text(plan: Plan) -> list[str]:
    """A line for each value that every tile of a stage needs whole, and what that costs."""
    images, lines = plan.micro_batch_sizes[0], []
    for (number, value), reader in plan.gathered.items():
        whole = Region.whole(extent_in(plan.graph, value, images))
        team, size = plan.stages[number].team, value_bytes(plan, value, whole)
        arriving = max(
            (
                sum(value_bytes(plan, value, t.region) for t in exchange.receives(rank))
                for exchange in plan.exchanges[images]
                if exchange.value == value and exchange.target is team
                for rank in sample_ranks(plan, number)
            ),
            default=0,
        )
        lines.append(
            f"gathered on every tile of stage {number}, for {reader.label}: {value},"
            f" {size_text(size)}, of which {size_text(arriving)} from other tiles"
        )
    return lines
