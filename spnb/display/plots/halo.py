"""The halo of one rank, enlarged: which neighbour each part of it comes from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from ...ir.exchange import Team
from ...ir.region import Region, Span
from .style import colour_of

BAND = 0.22
"""Width that a halo band is drawn with; the tile between two is drawn 1 wide."""

Look = Callable[[Region], np.ndarray]
"""Pixels ``(height, width, 3)`` in [0, 1] of a region over ``(height, width)`` of the value."""


class DrawnEdges(NamedTuple):
    """Where the four edges of a region are drawn, in the order of matplotlib's ``extent``."""

    left: float
    right: float
    bottom: float
    top: float


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
    of_rows, of_columns = knots
    ax.set_yticks(list(of_rows.values()), [str(position) for position in of_rows])
    ax.set_xticks(list(of_columns.values()), [str(position) for position in of_columns])
    ax.set_ylim(max(of_rows.values()), min(of_rows.values()))
    ax.set_xlim(min(of_columns.values()), max(of_columns.values()))
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


def _extent(region: Region, knots: Sequence[dict[int, float]]) -> DrawnEdges:
    """Where a region is drawn."""
    (top, bottom), (left, right) = (
        np.interp(span, list(known), list(known.values()))
        for span, known in zip(region.spans, knots, strict=True)
    )
    return DrawnEdges(left, right, bottom, top)


def _box(
    ax: Axes,
    region: Region,
    knots: Sequence[dict[int, float]],
    *,
    facecolor: str,
    linewidth: float,
    zorder: float,
    edgecolor: str | None = None,
    alpha: float | None = None,
) -> None:
    left, right, bottom, top = _extent(region, knots)
    ax.add_patch(
        Rectangle(
            (left, top),
            right - left,
            bottom - top,
            facecolor=facecolor,
            edgecolor=edgecolor,
            linewidth=linewidth,
            alpha=alpha,
            zorder=zorder,
        )
    )


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


def _size(region: Region) -> str:
    return "×".join(map(str, region.shape))
