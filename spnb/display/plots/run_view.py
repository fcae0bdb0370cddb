"""A run as one picture: its image and its output with tiles, and the timeline below."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .timeline import MOST_RANKS, timeline

MOST_NUMBERS = 64
"""Tiles with a number; of more tiles, only the borders are drawn."""


@dataclass(frozen=True)
class Pane:
    """A picture of the whole image, in colours.

    Attributes
    ----------
    title
        What it is.
    colours
        ``(rows, columns, 3)``.
    """

    title: str
    colours: np.ndarray


def run_view(
    panes: Sequence[Pane],
    extent: tuple[int, int],
    tiles: Sequence[tuple[int, Sequence[float]]],
    timings: pd.DataFrame | None,
) -> bytes:
    """Return a PNG of pictures with tile borders, and the timeline of a run.

    Parameters
    ----------
    panes
        Pictures of the same image, side by side.
    extent
        Rows and columns of the image.
    tiles
        A rank, and the first row, last row, first column and last column of its tile, each.
    timings
        The run's events; None for a plan that was not run.
    """
    height, width = extent
    each = 8.0 / len(panes)
    high = min(each * height / width, 5.0) + 0.4
    rows = 0 if timings is None else min(timings["rank"].nunique(), MOST_RANKS)
    below = 1.1 + 0.26 * rows if rows else 0.0
    figure = Figure(figsize=(8.4, high + below), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        2 if rows else 1, len(panes), height_ratios=[high, below][: 1 + bool(rows)]
    )
    for number, pane in enumerate(panes):
        _draw(figure.add_subplot(grid[0, number]), pane, extent, tiles)
    if timings is not None and rows:
        timeline(timings, figure.add_subplot(grid[1, :]))
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()


def _draw(
    ax: Axes, pane: Pane, extent: tuple[int, int], tiles: Sequence[tuple[int, Sequence[float]]]
) -> None:
    height, width = extent
    ax.imshow(pane.colours, extent=(0, width, height, 0), interpolation="nearest")
    for rank, (top, bottom, left, right) in tiles:
        for colour, thick in (("white", 2.4), ("black", 0.9)):
            place = (left, top), right - left, bottom - top
            ax.add_patch(Rectangle(*place, fill=False, edgecolor=colour, linewidth=thick))
        if len(tiles) <= MOST_NUMBERS:
            box = {"boxstyle": "round,pad=0.2", "facecolor": "white", "alpha": 0.85, "linewidth": 0}
            ax.annotate(
                f"{rank}",
                (left, top),
                xytext=(5, -5),
                textcoords="offset points",
                fontsize=9,
                va="top",
                bbox=box,
            )
    ax.set_title(pane.title, fontsize=10)
    ax.set_xticks([0, width])
    ax.set_yticks([0, height])
    ax.tick_params(labelsize=8)
