"""Lists the halos of a plan, and finds the widest."""

from __future__ import annotations

from ..ir.halo import Halo
from ..planner.plan import Plan


def halos(plan: Plan, stage: int) -> list[Halo]:
    """Return every halo of a stage in order of execution, that of its input first.

    A value that tiles merge, or gather whole, has no halo.
    """
    images, team = plan.micro_batch_sizes[0], plan.stages[stage].team
    found = []
    for exchange in plan.exchanges[images]:
        if exchange.target is not team or exchange.kind in ("merge", "ring", "gather"):
            continue
        node = plan.graph.by_name.get(exchange.value)
        extent = (images, *plan.graph.extent(exchange.value)[1:])
        layer = node.path if node else "the image"
        found.append(
            Halo(layer, exchange.kind, team, extent, team.tiling.spans(extent), exchange.needs)
        )
    return found


def widest_halo(plan: Plan, stage: int) -> Halo:
    """Return the halo of a stage that is widest, in pixels of the image.

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


def halo_of(plan: Plan, rank: int, layer: str | None = None) -> Halo:
    """Return a halo of a rank's stage: the widest, or that of one layer.

    Raises
    ------
    ValueError
        If the rank's stage is not tiled, or no result of such a layer is exchanged there.
    """
    if not 0 <= rank < plan.num_ranks:
        raise ValueError(f"there is no rank {rank}: the plan has ranks 0 to {plan.num_ranks - 1}")
    stage = plan.stage_of(rank).index
    widest = widest_halo(plan, stage)
    if layer is None:
        return widest
    known = {halo.layer: halo for halo in halos(plan, stage) if any(halo.depth)}
    if layer not in known:
        raise ValueError(
            f"stage {stage} exchanges no halo of {layer!r}: there are {', '.join(known) or 'none'}"
        )
    return known[layer]
