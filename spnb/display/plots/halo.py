"""The halo of one rank, enlarged: which neighbour each part of it comes from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import ceil

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from ...analysis.halos import halo_of
from ...io.open import thumbnail
from ...io.sources import Source
from ...ir.exchange import Exchange, Team, Transfer
from ...ir.rank_plan import Part
from ...ir.region import Region, Span
from ...planner.plan import Plan
from .style import colour_of

BAND = 0.22
"""Width that a halo band is drawn with; the tile between two is drawn 1 wide."""

Look = Callable[[Region], np.ndarray]
"""Pixels ``(height, width, 3)`` in [0, 1] of a region over ``(height, width)`` of the value."""


def plan_halo(
    plan: Plan, rank: int, source: Source | None, layer: str | None, ax: Axes | None
) -> Axes:
    """Draw the halo of a rank: see `spnb.job.job_plan.JobPlan.plot_halo`."""
    if len(plan.extent) != 2:
        raise ValueError(f"a halo is drawn over 2-D images, this one has {len(plan.extent)} axes")
    found = halo_of(plan, rank, layer)
    scale = [n / m for n, m in zip(plan.extent, found.extent[1:], strict=True)]

    def look(region: Region) -> np.ndarray:
        spans = [
            (int(a * s), min(n, max(int(a * s) + 1, round(b * s))))
            for (a, b), s, n in zip(region.spans, scale, plan.extent, strict=True)
        ]
        return thumbnail(source, 512, tuple(spans))

    where = "of the image" if found.layer == "the image" else f"of {found.layer}"
    return halo(
        found.team,
        rank,
        _spatial(found.own(rank)),
        _spatial(found.need(rank)),
        [(t.source, _spatial(t.region)) for t in found.neighbours(rank)],
        look if source is not None else None,
        f"What rank {rank} needs {where}",
        ax,
    )


def rank_halo(part: Part, pixels: torch.Tensor | None, ax: Axes | None) -> Axes:
    """Draw the widest halo of a rank: see `spnb.engine.here.Here.plot`."""
    found: list[tuple[Region, Region, Sequence[Transfer]]] = [
        (step.kept, step.region, step.transfers) for step in part.received("halo")
    ]
    if part.entry_needs is not None:  # of the image each rank reads its halo itself
        team, has = part.home, part.home.tiling.spans(part.extent)
        read = Exchange(0, "x", "input", team, team, has, part.entry_needs, 0)
        found.append((part.region, read.need(part.rank), read.receives(part.rank)))
    found = [each for each in found if each[2] and len(each[0].spans) == 3]
    if not found:
        raise ValueError(
            f"rank {part.rank} of stage {part.stage} has no halo of a 2-D value: nothing to draw"
        )
    kept, region, transfers = max(found, key=lambda each: each[1].size - each[0].size)
    own, need = _spatial(kept), _spatial(region)
    look = None
    if pixels is not None:
        shown = pixels[0].float()
        shown = (shown - shown.min()) / (shown.max() - shown.min() or 1.0)
        shown = shown[[0, 1, 2] if len(shown) > 2 else [0, 0, 0]].movedim(0, -1).numpy()

        def look(region: Region) -> np.ndarray:
            spans = zip(region.spans, need.spans, shown.shape[:2], strict=True)
            scaled = [
                slice(int((a - low) * n / (high - low)), ceil((b - low) * n / (high - low)))
                for (a, b), (low, high), n in spans
            ]
            return shown[tuple(scaled)]

    return halo(
        part.home,
        part.rank,
        own,
        need,
        [(t.source, _spatial(t.region)) for t in transfers],
        look,
        f"What rank {part.rank} needs",
        ax,
    )


def halo(
    team: Team,
    rank: int,
    own: Region,
    need: Region,
    neighbours: Sequence[tuple[int, Region]],
    look: Look | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw a tile and its halo, coloured by the neighbour that owns each part.

    The halo is drawn wider than it is, and the tile smaller: the axes tell true positions.

    Parameters
    ----------
    team
        The tiles' grid: it gives each its colour.
    rank
        Whose halo it is.
    own, need
        Regions over ``(height, width)`` of the value.
    neighbours
        Which other rank owns which region of the need.
    look
        Gives the pixels under the picture.
    title
        Of the picture.
    ax
        Where to draw; a new figure by default.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(6.4, 6.4), layout="constrained")
    knots = [_knots(o, n) for o, n in zip(own.spans, need.spans, strict=True)]
    rows, columns = (list(pairwise(known)) for known in knots)
    if look is not None:
        for row in rows:
            for column in columns:
                region = Region((row, column))
                if not region.empty:
                    ax.imshow(
                        look(region),
                        extent=_extent(region, knots),
                        aspect="auto",
                        interpolation="nearest",
                        zorder=0,
                    )
    _box(ax, own, knots, facecolor="none", edgecolor="black", linewidth=2.5, zorder=4)
    _text(ax, own, knots, f"rank {rank}\n{_size(own)}", colour_of(team, rank), 12)
    by_rank: dict[int, int] = {}
    for other, region in neighbours:
        colour = colour_of(team, other)
        by_rank[other] = by_rank.get(other, 0) + region.size
        _box(ax, region, knots, facecolor=colour, alpha=0.55, linewidth=0, zorder=2)
        _box(ax, region, knots, facecolor="none", edgecolor="black", linewidth=0.8, zorder=3)
        _text(ax, region, knots, f"{other}\n{_size(region)}", colour, 8)
    for axis, (set_ticks, set_limits) in enumerate(
        ((ax.set_yticks, ax.set_ylim), (ax.set_xticks, ax.set_xlim))
    ):
        known = knots[axis]
        set_ticks(list(known.values()), [str(k) for k in known])
        ends = (min(known.values()), max(known.values()))
        set_limits(*(ends[::-1] if axis == 0 else ends))
    ax.tick_params(axis="x", rotation=45)
    ax.set_aspect("equal")
    ax.set_title(f"{title}: {_size(need)} for a tile of {_size(own)}", fontsize=11)
    ax.set_xlabel("column (not to scale)")
    ax.set_ylabel("row (not to scale)")
    handles = [
        Patch(facecolor=colour_of(team, other), alpha=0.55, label=f"from rank {other}")
        for other in by_rank
    ]
    if handles:
        ax.legend(
            handles=handles,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.16),
            ncols=min(4, len(handles)),
            frameon=False,
            fontsize=9,
        )
    return ax


def _knots(own: Span, need: Span) -> dict[int, float]:
    """Where positions are drawn: the tile from 0 to 1, the halo in a band at each side."""
    drawn = {own[0]: 0.0, own[1]: 1.0}
    if need[0] < own[0]:
        drawn[need[0]] = -BAND
    if need[1] > own[1]:
        drawn[need[1]] = 1.0 + BAND
    return dict(sorted(drawn.items()))


def _extent(region: Region, knots: Sequence[dict[int, float]]) -> tuple[float, ...]:
    """``left, right, bottom, top`` where a region is drawn."""
    (top, bottom), (left, right) = (
        np.interp(span, list(known), list(known.values()))
        for span, known in zip(region.spans, knots, strict=True)
    )
    return left, right, bottom, top


def _box(ax: Axes, region: Region, knots: Sequence[dict[int, float]], **style: object) -> None:
    left, right, bottom, top = _extent(region, knots)
    ax.add_patch(Rectangle((left, top), right - left, bottom - top, **style))


def _text(
    ax: Axes, region: Region, knots: Sequence[dict[int, float]], text: str, colour: str, size: int
) -> None:
    left, right, bottom, top = _extent(region, knots)
    ax.text(
        (left + right) / 2,
        (top + bottom) / 2,
        text,
        ha="center",
        va="center",
        fontsize=size,
        zorder=5,
        bbox={
            "boxstyle": "round,pad=0.2",
            "facecolor": "white",
            "edgecolor": colour,
            "linewidth": 1.5,
            "alpha": 0.9,
        },
    )


def _spatial(region: Region) -> Region:
    return Region(region.spans[1:])


def _size(region: Region) -> str:
    return "×".join(map(str, region.shape))
