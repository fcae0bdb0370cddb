"""Splits as points: their time and memory, and what was foreseen of them and measured."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from ..cards import size_text, time_text
from .style import TILE, open_frame


def front(planned: pd.DataFrame, best: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the time of splits against the memory of their largest rank, both logarithmic.

    Parameters
    ----------
    planned
        Every split that was simulated: ``seconds`` and ``memory_bytes``.
    best
        Those that no other one beats, the fastest first; they are numbered from 1.
    ax
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(7.0, 4.2), layout="constrained")
    mib = 1024**2
    ax.plot(planned.memory_bytes / mib, planned.seconds, "o", color=TILE[7], markersize=4)
    ax.plot(best.memory_bytes / mib, best.seconds, "o-", color=TILE[4], markersize=6)
    for number, row in enumerate(best.itertuples(), 1):
        text = f"{number}: {row.ranks} rank{'s' * (row.ranks != 1)}"
        place = (row.memory_bytes / mib, row.seconds)
        ax.annotate(text, place, (5, 5), textcoords="offset points", fontsize=8.5)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: size_text(value * mib)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: time_text(value)))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("memory of the rank that needs most")
    ax.set_ylabel("time, simulated")
    ax.set_title("grey: other splits that were simulated", fontsize=9)
    open_frame(ax)
    return ax


def foreseen(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the measured seconds of splits over the foreseen ones, both logarithmic.

    Parameters
    ----------
    table
        A table as `spnb.benchmarking.foreseen.Foreseen.table`.
    ax
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(5.6, 5.0), layout="constrained")
    for number, (workload, rows) in enumerate(table.groupby("workload", sort=False)):
        ax.plot(rows.foreseen, rows.measured, "o", color=f"C{number}", label=str(workload))
    every = [*table.foreseen, *table.measured]
    ends = [min(every) / 1.2, max(every) * 1.2]
    ax.plot(ends, ends, color="black", linewidth=1.0)
    ax.fill_between(ends, [0.8 * e for e in ends], [1.2 * e for e in ends], color="0.9", zorder=0)
    ax.set(xscale="log", yscale="log", xlim=ends, ylim=ends, aspect="equal")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: time_text(value)))
        axis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("foreseen")
    ax.set_ylabel("measured")
    ax.set_title("a batch of each split; grey: within 20 %", fontsize=9)
    ax.legend(frameon=False, fontsize=9)
    open_frame(ax)
    return ax
