"""The halo of one rank, enlarged, in the colours of the neighbours that own its regions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
"""Width of a halo band in the picture, where the tile's longer side is 1 long."""

LEAST = 0.3
"""Least length of the tile's shorter side there: a label must fit into it."""

INCHES = 3.5
"""Inches of a length of 1."""

LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601

Look = Callable[[Region], np.ndarray]
"""Pixels ``(height, width, 3)`` in [0, 1] of a region over ``(height, width)`` of the value."""

Knots = Sequence[Mapping[int, float]]
"""For rows and for columns: positions of the value, and where they are drawn."""


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
    """Draw a tile and its halo; each region of the halo has the colour of its owner.

    The halo is drawn wider than it is, and the tile smaller.  The axes show true positions.

    Parameters
    ----------
    team
        The ranks of the stage in their grid, which determines their colours.
    rank
        The rank that needs the halo.
    own, need
        The regions that the rank owns and needs, over ``(height, width)`` of the value.
    neighbours
        For each region of the halo its owner, another rank.
    look
        Gives the pixels under the picture.
    title
        Beginning of the title.
    ax
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
    """
    sides = [max(LEAST, n / max(own.shape)) for n in own.shape]
    knots = [_knots(*each) for each in zip(own.spans, need.spans, sides, strict=True)]
    if ax is None:
        height, width = (max(known.values()) - min(known.values()) for known in knots)
        shape = (max(5.6, INCHES * width + 1.4), INCHES * height + 1.4)
        _, ax = plt.subplots(figsize=shape, layout="constrained")
    if look is not None:
        _draw_pixels(ax, look, own, knots)
    _box(ax, own, knots, facecolor="none", edgecolor="black", linewidth=2.5, zorder=4)
    _text(ax, own, knots, f"rank {rank}\n{_size(own)}", colour_of(team, rank), 12)
    for owner, region in neighbours:
        colour = colour_of(team, owner)
        _box(ax, region, knots, facecolor=colour, alpha=0.55, linewidth=0, zorder=2)
        _box(ax, region, knots, facecolor="none", edgecolor="black", linewidth=0.8, zorder=3)
        _text(ax, region, knots, f"{owner}\n{_size(region)}", colour, 8)
    _show_positions(ax, knots)
    ax.set_title(f"{title}: {_size(need)} for a tile of {_size(own)}", fontsize=11)
    _legend(ax, team, list(dict.fromkeys(owner for owner, _ in neighbours)))
    return ax


def _draw_pixels(ax: Axes, look: Look, own: Region, knots: Knots) -> None:
    """Draw the pixels under the tile and under each part of the halo, each in its own scale.

    Those of the halo are light greys, on which its colours are those of the legend.
    """
    rows, columns = (list(pairwise(known)) for known in knots)
    for row in rows:
        for column in columns:
            region = Region((row, column))
            if not region.empty:
                pixels = look(region)
                if region != own:
                    pixels = np.repeat(0.4 + 0.6 * pixels @ LUMINANCE, 3).reshape(pixels.shape)
                ax.imshow(
                    pixels,
                    extent=_extent(region, knots),
                    aspect="auto",
                    interpolation="nearest",
                    zorder=0,
                )


def _show_positions(ax: Axes, knots: Knots) -> None:
    """Set limits and ticks of the axes: a tick where a tile or its halo begins or ends."""
    rows, columns = knots
    ax.set_yticks(list(rows.values()), [str(position) for position in rows])
    ax.set_xticks(list(columns.values()), [str(position) for position in columns])
    ax.set_ylim(max(rows.values()), min(rows.values()))
    ax.set_xlim(min(columns.values()), max(columns.values()))
    ax.tick_params(axis="x", rotation=45)
    ax.set_aspect("equal")
    ax.set_xlabel("column (not to scale)")
    ax.set_ylabel("row (not to scale)")


def _legend(ax: Axes, team: Team, owners: Sequence[int]) -> None:
    """Put a legend of the halo's owners below the picture, if there are any: each colour once."""
    if not owners:
        return
    of_colour: dict[str, list[str]] = {}
    for owner in sorted(owners):
        of_colour.setdefault(colour_of(team, owner), []).append(str(owner))
    ax.legend(
        handles=[
            Patch(
                facecolor=colour,
                alpha=0.55,
                label=f"from rank{'s' * (len(of) > 1)} {', '.join(of)}",
            )
            for colour, of in of_colour.items()
        ],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.16),
        ncols=min(4, len(of_colour)),
        frameon=False,
        fontsize=9,
    )


def _knots(own: Span, need: Span, side: float) -> dict[int, float]:
    """Where positions are drawn: the tile from 0 to its side, the halo in a band on each side."""
    drawn = {own[0]: 0.0, own[1]: side}
    if need[0] < own[0]:
        drawn[need[0]] = -BAND
    if need[1] > own[1]:
        drawn[need[1]] = side + BAND
    return dict(sorted(drawn.items()))


def _extent(region: Region, knots: Knots) -> DrawnEdges:
    """Where the edges of a region are drawn."""
    (top, bottom), (left, right) = (
        np.interp(span, list(known), list(known.values()))
        for span, known in zip(region.spans, knots, strict=True)
    )
    return DrawnEdges(left, right, bottom, top)


def _box(
    ax: Axes,
    region: Region,
    knots: Knots,
    *,
    facecolor: str,
    linewidth: float,
    zorder: float,
    edgecolor: str | None = None,
    alpha: float | None = None,
) -> None:
    """Draw a region as a rectangle."""
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


def _text(ax: Axes, region: Region, knots: Knots, text: str, colour: str, size: int) -> None:
    """Write text into the middle of a region."""
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
