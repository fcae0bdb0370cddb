"""Figures of a plan: halos, messages, bytes, memory. Pure arithmetic; nothing is run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .exchange import HOST, Spans, Team, region_at
from .layout import extent_in
from .plan import Plan
from .program import Compute, Free, Receive
from .region import Region


@dataclass(frozen=True)
class Halo:
    """What the tiles of a stage own and need of one value.

    Attributes
    ----------
    layer
        The module whose result is exchanged; the image itself where a stage reads it.
    extent
        Of the value, over ``(batch, *spatial)``.
    has, needs
        Spans of the tiles, axis by axis.
    """

    layer: str
    team: Team
    extent: tuple[int, ...]
    has: Spans
    needs: Spans

    def own(self, rank: int) -> Region:
        """The region that a rank owns."""
        return region_at(self.has, self.team.position(rank))

    def need(self, rank: int) -> Region:
        """The region that a rank needs, clipped to the extent."""
        return region_at(self.needs, self.team.position(rank))

    @property
    def depth(self) -> tuple[int, ...]:
        """Largest number of positions, on each spatial axis, that a need reaches past its tile."""
        return tuple(
            max(max(a - start, stop - b) for (a, b), (start, stop) in zip(has, needs, strict=True))
            for has, needs in zip(self.has[1:], self.needs[1:], strict=True)
        )


def halos(plan: Plan, stage: int) -> list[Halo]:
    """Every halo of a stage, in order of execution: of what it is given, then of what it makes."""
    images, team = plan.batches[0], plan.stages[stage].team
    found = []
    for exchange in plan.exchanges[images]:
        if exchange.target is not team:
            continue
        node = plan.graph.by_name.get(exchange.value)
        extent = (images, *plan.graph.extent(exchange.value)[1:])
        layer = node.path if node else "the image"
        found.append(Halo(layer, team, extent, team.tiling.spans(extent), exchange.needs))
    return found


def widest_halo(plan: Plan, stage: int) -> Halo:
    """The halo of a stage that is widest in pixels of the image.

    Raises
    ------
    ValueError
        If the stage is not tiled.
    """
    if not plan.stages[stage].tiled:
        raise ValueError(f"stage {stage} is not tiled: it has no halo")

    def pixels(halo: Halo) -> float:
        scale = (n / m for n, m in zip(plan.extent, halo.extent[1:], strict=True))
        return max(d * s for d, s in zip(halo.depth, scale, strict=True))

    return max(halos(plan, stage), key=pixels)


def traffic(plan: Plan, rank: int) -> tuple[int, int]:
    """Messages and bytes that a rank sends to other ranks in one pass over the batch."""
    team = plan.stage_of(rank).team
    messages = size = 0
    for images in plan.batches:
        for exchange in plan.exchanges[images]:
            if exchange.source is team and exchange.target.ranks != (HOST,):
                more, bytes_sent = exchange.sent(rank)
                messages, size = messages + more, size + bytes_sent
    return messages, size


def weight_bytes(plan: Plan, stage: int) -> int:
    """Bytes of the parameters and buffers of a stage."""
    weights = {w.name: w for node in plan.stages[stage].nodes for w in node.weights}
    return sum(math.prod(w.shape) for w in weights.values()) * plan.graph.dtype.itemsize


def activation_bytes(plan: Plan, rank: int) -> int:
    """Most bytes of values that a rank holds at once, from their lifetimes in its program.

    What an operator needs besides its operands and its result (workspace) is not counted.
    """
    nodes = plan.stage_of(rank).nodes
    images = max(plan.batches)
    held: dict[str, int] = {}
    peak = 0
    for step in plan.program(rank, images).steps:
        if isinstance(step, Compute):
            node = nodes[step.node]
            held[node.name] = _bytes(plan, node.name, step.region)
            peak = max(peak, sum(held.values()))
        elif isinstance(step, Receive):
            whole = _bytes(plan, step.value, step.region)
            arriving = sum(_bytes(plan, step.value, t.region) for t in step.transfers)
            peak = max(peak, sum(held.values()) + whole + arriving)
            held[step.value] = whole
        elif isinstance(step, Free):
            for value in step.values:
                held.pop(value, None)
    return peak


def _bytes(plan: Plan, value: str, region: Region) -> int:
    return region.size * plan.graph.channels(value) * plan.graph.itemsize(value)


def sample_ranks(plan: Plan, stage: int) -> list[int]:
    """Ranks that stand for a stage: all of few; first, middle and last along each axis of many."""
    team = plan.stages[stage].team
    if len(team.ranks) <= 16:
        return list(team.ranks)
    corners: list[tuple[int, ...]] = [()]
    for n in team.tiling.grid:
        corners = [(*c, k) for c in corners for k in sorted({0, n // 2, n - 1})]
    return [team.rank_at(corner) for corner in corners]


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
    for stage in plan.stages:
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
                size_text(weight_bytes(plan, stage.index)),
                size_text(max(activation_bytes(plan, rank) for rank in part_ranks)),
            )
        )
    return found


def describe(plan: Plan, name: str) -> str:
    """A plan as a small table: per rank of each stage, for one pass over the batch."""
    batch, *size = plan.graph.extent(next(iter(plan.graph.inputs)))
    halo_text = "before each window operator"
    if plan.fused:
        halo_text = f"once for {plan.fused} blocks" if plan.fused < 1 << 20 else "once for all"
    head = (
        f"{name}: {counted(batch, 'image')} of {'×'.join(map(str, size))}"
        f" in {counted(len(plan.batches), 'part')}, {counted(len(plan.graph.blocks), 'block')},"
        f" {counted(len(plan.graph.nodes), 'operator')}; {counted(plan.num_ranks, 'rank')};"
        f" halos exchanged {halo_text}"
    )
    return "\n".join([head, text_table(HEADINGS, rows(plan)), *gathered_text(plan)])


def gathered_text(plan: Plan) -> list[str]:
    """A line for each value that every tile of a stage needs whole, and what that costs."""
    images, lines = plan.batches[0], []
    for (number, value), reader in plan.gathered.items():
        whole = Region.whole(extent_in(plan.graph, value, images))
        team, size = plan.stages[number].team, _bytes(plan, value, whole)
        arriving = max(
            (
                sum(_bytes(plan, value, t.region) for t in exchange.receives(rank))
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


def text_table(headings: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Columns aligned with spaces.

    >>> print(text_table(("a", "bb"), [("123", "4")]))
    a    bb
    123  4
    """
    widths = [max(map(len, column)) for column in zip(headings, *body, strict=True)]
    lines = (
        "  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) for r in (headings, *body)
    )
    return "\n".join(line.rstrip() for line in lines)


def counted(number: int, noun: str) -> str:
    """A number of things.

    >>> counted(1, "image"), counted(2, "image")
    ('1 image', '2 images')
    """
    return f"{number} {noun}{'s' * (number != 1)}"


def size_text(size: float) -> str:
    """A number of bytes in words.

    >>> size_text(3_500_000)
    '3.3 MiB'
    """
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.{0 if unit == 'B' else 1}f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
