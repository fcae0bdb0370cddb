"""Splits as points of time and memory, and the ones that no other split beats."""

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
