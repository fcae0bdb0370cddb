"""Runs compared with each other: losses, times of contestants, fused halos, halo exchanges."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ..cards import time_text
from .style import TILE, open_frame

MOST_EPOCHS = 40
"""From this number of epochs on, `loss` draws no lines between them."""

MARKS = "os^DvPX*"
"""Markers of the contestants of `suite`."""

RATIOS = (0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
"""Ticks of an axis of ratios."""

SPEED_STYLES = {"exchange": "o-", "ping": "s--", "copy": "^:"}
"""Columns that `halo_speed` draws, and the styles of their lines."""


def loss(history: pd.DataFrame, ax: Axes | None = None, **line: Any) -> Axes:
    """Draw the loss of each step, with a line at the end of each epoch.

    Parameters
    ----------
    history
        A table as `spnb.driver.training.training_result.Training.history`.
    ax
        Where to draw; a new figure by default.  Several curves may share it.
    line
        Further arguments of `matplotlib.axes.Axes.plot`: label, colour, …

    Returns
    -------
    matplotlib.axes.Axes
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(7.0, 3.6), layout="constrained")
    if not ax.lines:
        ends = history.index[history["epoch"].diff() > 0]
        if len(ends) < MOST_EPOCHS:
            for end in ends:
                ax.axvline(end + 0.5, color="#DDDDDD", linewidth=0.8, zorder=0)
    ax.plot(range(1, len(history) + 1), history["loss"], **line)
    ax.set_xlabel("step")
    ax.set_ylabel("loss, mean over the batch")
    ax.set_ylim(bottom=0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    open_frame(ax)
    return ax


def ratios(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the time of each contestant's step as a multiple of spnb's.

    Parameters
    ----------
    table
        A table as `spnb.benchmarking.benchmark.Bench.table`: ``ratio``, ``lowest``, ``highest`` and
        ``seconds`` by name.
    ax
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(7.0, 1.2 + 0.42 * len(table)), layout="constrained")
    places = range(len(table))
    colours = [TILE[1] if name == "spnb" else TILE[0] for name in table.index]
    ax.barh(places, table["ratio"], color=colours, height=0.7)
    ax.hlines(places, table["lowest"], table["highest"], color="black", linewidth=1.2)
    _line_at_one(ax)
    for place, row in zip(places, table.itertuples(), strict=True):
        text = f"  {row.ratio:.2f}× ({time_text(row.seconds)})"
        label = ax.text(max(row.highest, row.ratio), place, text, va="center", fontsize=9, zorder=3)
        label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})
    ax.set_yticks(places, table.index)
    ax.invert_yaxis()
    ax.set_xlim(0, 1.3 * table["highest"].max())
    open_frame(ax)
    return ax


def suite(ratios: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the time of each contestant's step as a multiple of spnb's, for many workloads.

    The scale is logarithmic.

    Parameters
    ----------
    ratios
        A table as `spnb.benchmarking.suite.Suite.ratios`.
    ax
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
    """
    if ax is None:
        height = 1.6 + 0.32 * len(ratios)
        _, ax = plt.subplots(figsize=(8.0, height), layout="constrained")
    places = range(len(ratios))
    for place in places:
        ax.axhline(place, color="0.9", linewidth=0.8, zorder=0)
    for number, name in enumerate(ratios.columns):
        mark = MARKS[number % len(MARKS)]
        ax.plot(ratios[name], places, mark, color=f"C{number}", label=name, markersize=6)
    _line_at_one(ax)
    names = [f"{w} {size}², {tiles} tiles" for w, size, tiles in ratios.index]
    ax.set_yticks(places, names)
    ax.invert_yaxis()
    _logarithmic_ratios(ax, ratios.min().min(), ratios.max().max())
    below = {"bbox_to_anchor": (0.45, 0), "borderaxespad": 5}  # below the axis' label
    ax.legend(loc="upper center", **below, ncols=3, frameon=False, fontsize=9)
    open_frame(ax)
    return ax


def _line_at_one(ax: Axes) -> None:
    """Draw a line at spnb's own time, and say what lies right of it."""
    ax.axvline(1.0, color="black", linestyle="--", linewidth=1.0)
    ax.set_xlabel("time of a step as a multiple of spnb's: right of the line is slower")


def _logarithmic_ratios(ax: Axes, low: float, high: float) -> None:
    """Make the x axis logarithmic, with ticks at round ratios between two."""
    ax.set_xscale("log", base=2)
    ticks = [t for t in RATIOS if low <= t <= high] or [1.0]
    ax.set_xticks(ticks, [f"{t:g}" for t in ticks], minor=False)
    ax.minorticks_off()


def lengths(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the time of a step over the number of fused blocks, a line for each number of tiles.

    Times are relative to the first row with the same number of tiles; by default that row has an
    exchange before each window operator.  Dashed lines are work, redundant work included.  A circle
    marks the shortest time.

    Parameters
    ----------
    table
        A table as `spnb.benchmarking.sweep.Sweep.table`.
    ax
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(7.0, 4.0), layout="constrained")
    for number, (tiles, rows) in enumerate(table.groupby(level="tiles")):
        names = rows.index.get_level_values("fused")
        _draw_lengths(ax, rows, f"{tiles} tiles", f"C{number}")
        ax.set_xticks(range(len(rows)), names)
    ax.axhline(1.0, color="0.6", linewidth=0.8, zorder=0)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("blocks that share an exchange")
    ax.set_ylabel(f"relative to {names[0]}")
    ax.legend(frameon=False, ncols=2, fontsize=9)
    open_frame(ax)
    return ax


def _draw_lengths(ax: Axes, rows: pd.DataFrame, tiles: str, colour: str) -> None:
    """Draw time, work and the shortest time of one number of tiles."""
    places = range(len(rows))
    time = rows.seconds / rows.seconds.iloc[0]
    ax.plot(places, time, "o-", color=colour, label=f"{tiles}: time")
    ax.plot(places, 1 + rows.redundant, "--", color=colour, label=f"{tiles}: work")
    best = int(rows.best.to_numpy().argmax())
    ax.plot([best], [time.iloc[best]], "o", color=colour, markersize=12, fillstyle="none")


def halo_speed(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw seconds of an exchange, of bare messages and of a copy over the bytes received.

    Parameters
    ----------
    table
        A table as `spnb.benchmarking.halo_exchange.HaloSpeed.table`.
    ax
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(7.0, 4.0), layout="constrained")
    for number, (tiles, rows) in enumerate(table.groupby("tiles")):
        rows = rows.groupby("bytes").median(numeric_only=True)
        for name, style in SPEED_STYLES.items():
            label = {"ping": "bare MPI messages", "copy": "copy in memory"}.get(name, name)
            ax.plot(
                rows.index / 1024, 1e6 * rows[name], style, color=f"C{number}",
                label=f"{tiles} tiles: {label}", markersize=5,
            )  # fmt: skip
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_major_formatter("{x:g}")
    ax.set_xlabel("KiB received, by the rank that receives most")
    ax.set_ylabel("microseconds")
    ax.legend(frameon=False, fontsize=9)
    open_frame(ax)
    return ax
