"""Tiles and halo bands, over the image."""

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

from ...ir.exchange import Team
from ...ir.halo import Halo
from .style import TILE, colour_of

SEEN = 0.012
"""Share of the image's longer side that a halo is drawn with at least, to be seen at all."""


@dataclass(frozen=True)
class TilesPanel:
    """What one panel of `stages` shows.

    Attributes
    ----------
    stage
        Number of the stage, for the title.
    halo
        What the stage's tiles own and need.
    patches
        Grid over ``(batch, *spatial)`` of the patches that each tile is computed in.
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
        A stage each.
    size, picture, name
        As of `tiles`.
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
    """Draw one stage's tiles, and the borders of the patches that they are computed in."""
    ax = tiles(panel.halo, size, picture, panel.stage, name, ax)
    if math.prod(panel.patches) > 1:
        patches = panel.halo.team.tiling.refined(panel.patches)
        rows, columns = patches.spans((1, *size))[1:]
        for lines in (
            ax.hlines([start for start, _ in rows[1:]], 0, size[1]),
            ax.vlines([start for start, _ in columns[1:]], 0, size[0]),
        ):
            lines.set(color="white", linewidth=0.8, linestyle=(0, (4, 3)), zorder=1.5)
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
) -> Axes:
    """Draw tiles over an image, and the halo that each tile receives.

    Each band is what a tile reads outside itself, in that tile's colour.  A halo too thin to be
    seen is drawn wider; the legend tells its true width, in pixels of the image.

    Parameters
    ----------
    halo
        What the tiles own and need (see `spnb.analysis.halos.widest_halo`).
    size
        Height and width of the image in pixels.
    picture
        ``(height, width, 3)`` in [0, 1], of any size: stretched to ``size``.
    stage, name
        For the title: the stage, and what the image is called.
    ax
        Where to draw; a new figure by default.
    """
    height, width = size
    if ax is None:
        shape = (6.4, 6.4 * min(1.4, max(0.4, height / width)) + 1.0)
        _, ax = plt.subplots(figsize=shape, layout="constrained")
    ax.imshow(picture, extent=(0, width, height, 0), interpolation="antialiased", aspect="equal")
    scale = [n / m for n, m in zip(size, halo.extent[1:], strict=True)]
    widest = max(d * s for d, s in zip(halo.depth, scale, strict=True))
    widen = max(1.0, SEEN * max(size) / widest) if widest else 1.0
    team = halo.team
    tile_of = {rank: _tile(team, size, rank) for rank in team.ranks}
    colours = {rank: colour_of(team, rank) for rank in team.ranks}
    for rank, tile in tile_of.items():
        own, need = halo.own(rank).spans[1:], halo.need(rank).spans[1:]
        grown = [
            (a - (c - e) * s * widen, b + (f - d) * s * widen)
            for (a, b), (c, d), (e, f), s in zip(tile, own, need, scale, strict=True)
        ]
        for box in _bands(grown, tile):
            ax.add_patch(
                _box(box, facecolor=colours[rank], alpha=0.65, hatch="//////", linewidth=0)
            )
    for rank, tile in tile_of.items():
        ax.add_patch(_box(tile, fill=False, edgecolor="black", linewidth=1.8))
        ax.add_patch(_box(tile, fill=False, edgecolor="white", linewidth=0.8))
        (top, bottom), (left, right) = tile
        if len(team.ranks) <= 64:
            ax.text(
                (left + right) / 2,
                (top + bottom) / 2,
                f"rank {rank}\n{bottom - top}×{right - left}",
                ha="center",
                va="center",
                fontsize=10 if len(team.ranks) <= 9 else 8 if len(team.ranks) <= 16 else 6,
                rotation=90 if right - left < 0.4 * (bottom - top) else 0,
                bbox={
                    "boxstyle": "round,pad=0.35",
                    "facecolor": "white",
                    "edgecolor": colours[rank],
                    "linewidth": 2.5,
                    "alpha": 0.9,
                },
            )
    grid = "×".join(map(str, halo.team.tiling.grid[1:]))
    ax.set_title(
        f"Stage {stage}: {name or 'image'}, {height}×{width} pixels, {grid} tiles", fontsize=11
    )
    ax.set_xlabel("width (pixels)")
    ax.set_ylabel("height (pixels)")
    text = "no halo"
    if widest:
        wide = f"{round(widest)} pixel{'s' * (round(widest) != 1)}"
        drawn = ", drawn wider" if widen > 1 else ""
        text = f"halo, in its reader's colour: at most {wide}{drawn}"
    band = Patch(facecolor=TILE[1], hatch="//////", alpha=0.65, label=text)
    edge = Line2D([], [], color="black", linewidth=2, label="tile boundary")
    ax.legend(
        handles=[edge, band],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.1),
        ncols=1,
        frameon=False,
        fontsize=9,
    )
    return ax


def _tile(team: Team, size: tuple[int, int], rank: int) -> Box:
    """The rectangle of the image that a rank of the stage owns."""
    return team.tiling.region((1, *size), team.ranks.index(rank)).spans[1:]


Box = Sequence[tuple[float, float]]
"""``(top, bottom), (left, right)``."""


def _bands(outer: Box, inner: Box) -> list[Box]:
    """The frame between two boxes, as boxes that do not overlap."""
    (top, bottom), (left, right) = outer
    (t, b), (x0, x1) = inner
    bands = [
        ((top, t), (left, right)),
        ((b, bottom), (left, right)),
        ((t, b), (left, x0)),
        ((t, b), (x1, right)),
    ]
    return [box for box in bands if all(stop > start for start, stop in box)]


def _box(box: Box, **style: Any) -> Rectangle:
    (top, bottom), (left, right) = box
    return Rectangle((left, top), right - left, bottom - top, **style)
