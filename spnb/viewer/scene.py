"""The numbers of which a script draws tiles and timeline, made of a plan and its events."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from ..analysis.halos import halos, widest_halo
from ..display.cards import TILE
from ..display.kinds import KIND, REST, kinds_of, shares_of
from ..ir.exchange import HOST
from ..ir.halo import Halo
from ..ir.region import Region
from ..planner.plan import Plan
from ..planner.stage import Stage

if TYPE_CHECKING:
    import pandas as pd


def scene_of(plan: Plan, timings: pd.DataFrame | None = None) -> dict[str, Any]:
    """Return tiles, halos and events as plain numbers and texts.

    Parameters
    ----------
    plan
        A plan for images of two axes.
    timings
        The events of a run, as `spnb.driver.result.Result.timings` gives them; by default there
        are none.

    Returns
    -------
    dict
        ``extent`` (rows and columns of the image); ``stages``, with the region of each tile in
        pixels of the image, its halo and bytes by neighbour; ``ranks`` (shares of the time by kind,
        which add up to 1); ``events`` (a list for each column); ``layers`` and ``whats``, to which
        events refer by number; ``seconds``; ``kinds`` and ``colours``.

    Raises
    ------
    ValueError
        If the images have other than two axes.
    """
    if len(plan.extent) != 2:
        raise ValueError(
            f"tiles are shown over 2-D images, this one has {len(plan.extent)} axes:"
            " plot_timeline() draws such a run"
        )
    run = _run(timings) if timings is not None and len(timings) else {"seconds": 0.0}
    return {
        "extent": list(plan.extent),
        "stages": [_stage(plan, stage) for stage in plan.stages],
        "micro_batches": len(plan.micro_batch_sizes),
        "kinds": [*KIND, *REST],
        "colours": [*KIND.values(), *REST.values()],
        **run,
    }


def _stage(plan: Plan, stage: Stage) -> dict[str, Any]:
    team = stage.team
    widest = widest_halo(plan, stage.index) if stage.tiled and halos(plan, stage.index) else None
    return {
        "stage": stage.index,
        "tiled": stage.tiled,
        "grid": list(team.tiling.grid[-2:]),
        "tiles": [_tile(plan, stage, number, widest) for number in range(len(team.ranks))],
    }


def _tile(plan: Plan, stage: Stage, number: int, widest: Halo | None) -> dict[str, Any]:
    """A tile: who computes it, its region, and what it needs of its neighbours."""
    rank, tiling = stage.team.ranks[number], stage.team.tiling
    images = plan.micro_batch_sizes[0]
    received, regions = _received(plan, rank), {}
    if widest is not None:
        regions = {t.source: _pixels(plan, widest, t.region) for t in widest.neighbours(rank)}
    return {
        "tile": number,
        "rank": rank,
        "ranks": list(plan.replicas.everywhere([rank])),
        "region": _corners(tiling.region((images, *plan.extent), number)),
        "colour": TILE[sum(k % 2 << axis for axis, k in enumerate(_place(stage, number)))],
        "layer": widest.layer if widest is not None else "",
        "need": _pixels(plan, widest, widest.need(rank)) if widest is not None else None,
        "halo": [
            {"rank": other, "bytes": size, "region": regions.get(other)}
            for other, size in sorted(received.items())
        ],
    }


def _place(stage: Stage, number: int) -> tuple[int, int]:
    """Column and row of a tile in its grid."""
    *_, row, column = stage.team.tiling.coordinates(number)
    return column, row


def _received(plan: Plan, rank: int) -> dict[int, int]:
    """The bytes that a rank of the plan receives in one pass over the batch, by sender."""
    found: dict[int, int] = defaultdict(int)
    numbers = plan.replicas.of(0)[0].numbers
    for number in numbers:
        for exchange in plan.exchanges[plan.micro_batch_sizes[number]]:
            if HOST in (exchange.source.ranks[0], exchange.target.ranks[0]):
                continue
            if rank in exchange.target.ranks:
                for t in exchange.receives(rank):
                    found[t.source] += t.region.size * exchange.position_bytes
    return dict(found)


def _corners(region: Region) -> list[float]:
    """Rows and columns of a region: first row, last, first column, last."""
    return [place for span in region.spans[-2:] for place in span]


def _pixels(plan: Plan, halo: Halo, region: Region) -> list[float]:
    """The corners of a region of a value, in pixels of the image."""
    scale = [n / m for n, m in zip(plan.extent, halo.extent[1:], strict=True) for _ in range(2)]
    return [place * each for place, each in zip(_corners(region), scale, strict=True)]


def _run(timings: pd.DataFrame) -> dict[str, Any]:
    """The events of a run, and each rank's sums."""
    end = float(timings["stop"].max())
    kinds = {kind: number for number, kind in enumerate((*KIND, *REST))}
    layer_numbers, layers = timings["layer"].factorize()
    what_numbers, whats = timings["what"].factorize()
    sent = timings[timings["kind"] == "pack"].groupby("rank")["bytes"].agg(["sum", "count"])
    shares = shares_of(timings, end)
    ranks = [
        {
            "rank": rank,
            "stages": sorted(map(int, own["stage"].unique())),
            "shares": [shares[rank].get(kind, 0.0) for kind in kinds],
            "sent": int(sent["sum"].get(rank, 0)),
            "messages": int(sent["count"].get(rank, 0)),
        }
        for rank, own in ((int(number), each) for number, each in timings.groupby("rank"))
    ]
    columns = ("rank", "stage", "micro_batch", "start", "stop", "bytes")
    events = {name: timings[name].tolist() for name in columns}
    events["kind"] = kinds_of(timings).map(kinds).tolist()
    events["layer"], events["what"] = layer_numbers.tolist(), what_numbers.tolist()
    return {
        "seconds": end,
        "ranks": ranks,
        "events": events,
        "layers": list(layers),
        "whats": list(whats),
    }
