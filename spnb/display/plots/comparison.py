"""Splits side by side: their tiles on one scale, and bars of what each costs."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ...ir.exchange import Team
from ...ir.region import Region, Span
from ..cards import size_text, time_text
from .style import TILE, colour_of, open_frame

Words = Callable[[float], str]
Box = tuple[Span, Span]
"""Rows and columns of a tile."""

BARS: dict[str, tuple[str, Words]] = {
    "seconds": ("time of a batch, simulated", time_text),
    "memory_bytes": ("memory of the largest rank", size_text),
    "bytes": ("sent between ranks", size_text),
}
"""Columns that are drawn as bars: their title, and how a value is written."""

IN_A_ROW = 4
"""Pictures of tiles beside each other."""


def comparison(
    teams: Mapping[str, Team | None], size: Sequence[int], table: pd.DataFrame
) -> Figure:
    """Draw splits of one image side by side, and below them bars of what each costs.

    Parameters
    ----------
    teams
        By the split's name, the ranks of its first tiled stage, and their tiles; None if it has no
        tiled stage.
    size
        Extent of the image in pixels; tiles of other than two axes are not drawn.
    table
        A row for each split, with the columns of `BARS`.

    Returns
    -------
    matplotlib.figure.Figure
    """
    drawn = teams if len(size) == 2 else {}
    columns = min(IN_A_ROW, len(drawn))
    rows = -(-len(drawn) // columns) if columns else 0
    below = 1.2 + 0.36 * len(table)
    figure = plt.figure(figsize=(9.6, 2.7 * rows + below), layout="constrained")
    if rows:
        top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=(2.7 * rows, below))[
            :, 0
        ]
        panels = top.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for ax, (name, team) in zip(panels, drawn.items(), strict=False):
            _tiles(ax, name, team, size)
        for ax in panels[len(drawn) :]:
            ax.set_visible(False)
    else:
        bottom = figure.subfigures(1, 1)
    _bars(bottom.subplots(1, len(BARS), sharey=True), table)
    return figure


def embedded(figure: Figure) -> str:
    """Close a figure; return it as an image in HTML."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110)
    plt.close(figure)
    data = base64.b64encode(png.getvalue()).decode()
    return f'<img style="max-width:100%" src="data:image/png;base64,{data}">'


def _tiles(ax: Axes, name: str, team: Team | None, size: Sequence[int]) -> None:
    """Draw the tiles of a stage in the colours that they have in all pictures."""
    height, width = size
    boxes: dict[int, Box] = {0: ((0, height), (0, width))}
    if team is not None:
        tiling = team.tiling
        boxes = {rank: _box(tiling.region((1, *size), k)) for k, rank in enumerate(team.ranks)}
    for rank, ((top, below), (left, right)) in boxes.items():
        colour = "#DDDDDD" if team is None else colour_of(team, rank)
        box = Rectangle((left, top), right - left, below - top, facecolor=colour)
        box.set(edgecolor="black", linewidth=0.8)
        ax.add_patch(box)
    ax.set(xlim=(0, width), ylim=(height, 0), aspect="equal", xticks=[], yticks=[])
    cut = "×".join(map(str, () if team is None else team.tiling.grid[1:]))
    ax.set_title(f"{name}: {cut or 'no'} tiles".replace(", ", ",\n"), fontsize=9)


def _box(tile: Region) -> Box:
    rows, columns = tile.spans[1:]
    return rows, columns


def _bars(panels: Sequence[Axes], table: pd.DataFrame) -> None:
    """Draw a bar for each split and cost; the smallest of each cost is in another colour."""
    places = range(len(table))
    for ax, (column, (title, words)) in zip(panels, BARS.items(), strict=True):
        values = table[column]
        best = values == values.min()
        ax.barh(places, values, color=np.where(best, TILE[2], TILE[1]), height=0.7)
        for place, value in zip(places, values, strict=True):
            ax.text(value, place, f" {words(value)}", va="center", fontsize=8.5)
        ax.set_title(title, fontsize=9.5)
        ax.set_xlim(0, max(1.45 * values.max(), 1e-9))  # room for what stands beside the bars
        ax.set_xticks([])
        ax.set_yticks(places, table.index, fontsize=9)
        ax.tick_params(length=0)
        ax.spines["bottom"].set_visible(False)
        open_frame(ax)
    panels[0].invert_yaxis()
    panels[1].set_xlabel("green: the smallest of all splits", fontsize=8.5)
