"""The tiles of a stage and their halos, drawn over the image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import Normal, Stroke

from ...ir.exchange import Team
from ...ir.halo import Halo
from .style import TILE, colour_of

VISIBLE = 0.012
"""Least width of a halo in the picture, as a share of the image's longer side."""

MOST_LABELLED = 64
"""Tiles of a picture in which each tile is labelled."""

HALO_STYLE: dict[str, Any] = {"hatch": "//////", "alpha": 0.65}
"""Look of a halo in the picture and in the legend."""

PATCH_STYLE: dict[str, Any] = {
    "color": "white",
    "linewidth": 0.8,
    "linestyle": (0, (4, 3)),
    "path_effects": [Stroke(linewidth=1.6, foreground="black"), Normal()],
}
"""Look of the border of a patch."""

TILE_STYLE: dict[str, Any] = {
    "color": "white",
    "linewidth": 0.8,
    "path_effects": [Stroke(linewidth=1.8, foreground="black"), Normal()],
}
"""Look of the border of a tile: to be seen on black and on white."""

TITLE = 55
"""Letters of a title that is written in two lines."""

TWO_LINES, ONE_LINE = 44, 110
"""Points that a tile's label takes of a tile's height in two lines, and of its length in one."""

Box = Sequence[tuple[float, float]]
"""A rectangle of the image: ``(top, bottom), (left, right)`` in pixels."""


@dataclass(frozen=True)
class TilesPanel:
    """The contents of one panel of `stages`.

    Attributes
    ----------
    stage
        Number of the stage, for the title.
    halo
        The regions that the stage's tiles own and need.
    patches
        Grid over ``(batch, *spatial)`` that cuts each tile into patches.
    """

    stage: int
    halo: Halo
    patches: tuple[int, ...]


def stages(
    panels: Sequence[TilesPanel],
    size: tuple[int, int],
    picture: np.ndarray,
    name: str = "",
    ax: Axes | None = None,
) -> Any:
    """Draw the tiles and patches of one stage, or of several side by side, over an image.

    Parameters
    ----------
    panels
        One for each stage.
    size, picture, name
        As for `tiles`.
    ax
        Where to draw one panel; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes, or an array of them for several panels
    """
    if len(panels) == 1:
        return _panel(panels[0], size, picture, name, ax)
    width = 6.4 * len(panels)
    _, axes = plt.subplots(1, len(panels), figsize=(width, 7.3), layout="constrained")
    for panel, each in zip(panels, axes, strict=True):
        _panel(panel, size, picture, name, each)
    return axes


def _panel(
    panel: TilesPanel, size: tuple[int, int], picture: np.ndarray, name: str, ax: Axes | None
) -> Axes:
    """Draw the tiles of one stage, and the borders of their patches."""
    ax = tiles(panel.halo, size, picture, panel.stage, name, ax, panel.patches)
    if math.prod(panel.patches) > 1:
        grid = "×".join(map(str, panel.patches[1:]))
        ax.set_title(f"{ax.get_title()} of {grid} patches", fontsize=11)
    return ax


def tiles(
    halo: Halo,
    size: tuple[int, int],
    picture: np.ndarray,
    stage: int = 0,
    name: str = "",
    ax: Axes | None = None,
    patches: tuple[int, ...] = (1,),
) -> Axes:
    """Draw tiles over an image, and the halo that each tile receives.

    A halo is drawn in the colour of the tile that reads it.  One that is too thin to be seen is
    drawn wider; the legend gives the true width, in pixels of the image.

    Parameters
    ----------
    halo
        The regions that the tiles own and need (see `spnb.analysis.halos.widest_halo`).
    size
        Height and width of the image in pixels.
    picture
        ``(height, width, 3)`` in [0, 1], of any size: stretched to ``size``.
    stage, name
        For the title: the stage, and the name of the image.
    ax
        Where to draw; a new figure by default.
    patches
        Grid over ``(batch, *spatial)`` that cuts each tile into patches.

    Returns
    -------
    matplotlib.axes.Axes
    """
    height, width = size
    if ax is None:
        shape = (6.4, 6.4 * min(1.4, max(0.4, height / width)) + 1.0)
        _, ax = plt.subplots(figsize=shape, layout="constrained")
    ax.imshow(picture, extent=(0, width, height, 0), interpolation="antialiased", aspect="equal")
    scale = [n / m for n, m in zip(size, halo.extent[1:], strict=True)]
    widest = max(d * s for d, s in zip(halo.depth, scale, strict=True))
    widen = max(1.0, VISIBLE * max(size) / widest) if widest else 1.0
    tile_of = {rank: _tile(halo.team, size, rank) for rank in halo.team.ranks}
    for rank, tile in tile_of.items():
        _draw_halo(ax, halo, rank, tile, [s * widen for s in scale])
    for rank, tile in tile_of.items():
        _draw_tile(ax, halo.team, rank, tile)
    cut = math.prod(patches) > 1
    if cut:
        rows, columns = halo.team.tiling.refined(patches).spans((1, *size))[1:]
        for lines in (
            ax.hlines([start for start, _ in rows[1:]], 0, width),
            ax.vlines([start for start, _ in columns[1:]], 0, height),
        ):
            lines.set(zorder=1.5, **PATCH_STYLE)
    grid = "×".join(map(str, halo.team.tiling.grid[1:]))
    image, cut_into = f"Stage {stage}: {name or 'image'}", f"{height}×{width} pixels, {grid} tiles"
    apart = ", " if len(image + cut_into) < TITLE else "\n"
    ax.set_title(image + apart + cut_into, fontsize=11)
    ax.set_xlabel("width (pixels)")
    ax.set_ylabel("height (pixels)")
    _legend(ax, widest, widen, cut)
    return ax


def _draw_halo(ax: Axes, halo: Halo, rank: int, tile: Box, scale: Sequence[float]) -> None:
    """Draw the bands around a tile that it reads.

    Parameters
    ----------
    scale
        Along height and width, the pixels of the picture for one position of the halo.
    """
    own, need = halo.own(rank).spans[1:], halo.need(rank).spans[1:]
    tile_and_halo = [
        (a - (c - e) * s, b + (f - d) * s)
        for (a, b), (c, d), (e, f), s in zip(tile, own, need, scale, strict=True)
    ]
    colour = colour_of(halo.team, rank)
    for box in _bands(tile_and_halo, tile):
        ax.add_patch(_box(box, facecolor=colour, linewidth=0, **HALO_STYLE))


def _draw_tile(ax: Axes, team: Team, rank: int, tile: Box) -> None:
    """Draw the border of a tile; unless there are too many tiles, write its rank and its size."""
    ax.add_patch(_box(tile, fill=False, **TILE_STYLE))
    count = len(team.ranks)
    if count > MOST_LABELLED:
        return
    (top, bottom), (left, right) = tile
    short, long = sorted(_points(ax, bottom - top, right - left))
    apart = ", " if short < TWO_LINES and long > ONE_LINE else "\n"
    ax.text(
        (left + right) / 2,
        (top + bottom) / 2,
        f"rank {rank}{apart}{bottom - top}×{right - left}",
        ha="center",
        va="center",
        fontsize=10 if count <= 9 else 8 if count <= 16 else 6,
        rotation=90 if right - left < 0.4 * (bottom - top) else 0,
        bbox={
            "boxstyle": "round,pad=0.35",
            "facecolor": "white",
            "edgecolor": colour_of(team, rank),
            "linewidth": 2.5,
            "alpha": 0.9,
        },
    )


def _legend(ax: Axes, widest: float, widen: float, patches: bool) -> None:
    """Put a legend below the picture, with the true width of the widest halo."""
    text = "no halo"
    if widest:
        pixels = f"{round(widest)} pixel{'s' * (round(widest) != 1)}"
        drawn = ", drawn wider" if widen > 1 else ""
        text = f"halo, in its reader's colour: at most {pixels}{drawn}"
    ax.legend(
        handles=[
            Line2D([], [], label="tile boundary", **TILE_STYLE),
            *([Line2D([], [], label="patch boundary", **PATCH_STYLE)] if patches else []),
            Patch(facecolor=TILE[1], label=text, **HALO_STYLE),
        ],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.1),
        ncols=1,
        frameon=False,
        fontsize=9,
    )


def _points(ax: Axes, height: float, width: float) -> tuple[float, float]:
    """About the size in points (1/72 inch) that so many pixels of the image are drawn in."""
    box = ax.get_window_extent()
    rows, columns = abs(np.diff(ax.get_ylim())[0]), abs(np.diff(ax.get_xlim())[0])
    each = min(box.height / rows, box.width / columns) * 72 / ax.figure.dpi
    return height * each, width * each


def _tile(team: Team, size: tuple[int, int], rank: int) -> Box:
    """The rectangle of the image that a rank of the stage owns."""
    return team.tiling.region((1, *size), team.ranks.index(rank)).spans[1:]


def _bands(outer: Box, inner: Box) -> list[Box]:
    """The frame between two boxes, as boxes that do not overlap."""
    (top, bottom), (left, right) = outer
    (inner_top, inner_bottom), (inner_left, inner_right) = inner
    bands = [
        ((top, inner_top), (left, right)),
        ((inner_bottom, bottom), (left, right)),
        ((inner_top, inner_bottom), (left, inner_left)),
        ((inner_top, inner_bottom), (inner_right, right)),
    ]
    return [box for box in bands if all(stop > start for start, stop in box)]


def _box(box: Box, **style: Any) -> Rectangle:
    (top, bottom), (left, right) = box
    return Rectangle((left, top), right - left, bottom - top, **style)
