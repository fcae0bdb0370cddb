"""The passes of micro-batches through a pipeline, tick by tick."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from ...ir.clock import ClockTable
from .style import TILE, open_frame, text_on

MOST_NUMBERED = 64
"""Most micro-batches of a picture with a number in each cell."""


def clock(table: ClockTable, ax: Axes | None = None) -> Axes:
    """Draw which micro-batch passes forward or, in training, backward at each tick.

    Parameters
    ----------
    table
        The passes, tick by tick.
    ax
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
    """
    ticks, rows = table.ticks, table.rows
    if ax is None:
        size = (min(12.0, 1.6 + 0.55 * len(ticks)), 1.1 + 0.5 * len(rows))
        _, ax = plt.subplots(figsize=size, layout="constrained")
    numbered = len({number for tick in ticks for _, number in tick.values()}) <= MOST_NUMBERED
    for tick, passes in enumerate(ticks):
        for row, (direction, number) in passes.items():
            _draw_pass(ax, tick, row, number, backward=direction == "backward")
            if numbered:
                _draw_number(ax, tick, row, number, mirrored=number in table.mirrored)
    ax.set_xlim(0, len(ticks))
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_yticks(range(len(rows)), rows)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("tick")
    ax.set_title(f"{table.title}: idle {table.idle:.0%}", fontsize=10)
    open_frame(ax)
    return ax


def _draw_pass(ax: Axes, tick: int, row: int, number: int, backward: bool) -> None:
    """Draw a cell in the colour of its micro-batch; a backward pass is hatched."""
    cell = Rectangle(
        (tick, row - 0.45),
        1,
        0.9,
        edgecolor="white",
        hatch="////" if backward else None,
        alpha=0.75 if backward else None,
    )
    cell.set_facecolor(TILE[number % len(TILE)])
    ax.add_patch(cell)


def _draw_number(ax: Axes, tick: int, row: int, number: int, mirrored: bool) -> None:
    """Write a micro-batch's number into a cell, in italics for the mirrored replica."""
    style = "italic" if mirrored else "normal"
    text = ax.text(tick + 0.5, row, str(number), ha="center", va="center", fontsize=10)
    text.set(style=style, color=text_on(TILE[number % len(TILE)]))
