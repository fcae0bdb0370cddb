"""How long others take."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from ..cards import time_text
from .style import TILE, open_frame


def ratios(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw how many times as long as spnb's a step of each contestant takes.

    Parameters
    ----------
    table
        As `spnb.benchmarking.benchmark.Bench.table`: ``ratio``, ``lowest``, ``highest`` and
        ``seconds`` by name.
    ax
        Where to draw; a new figure by default.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(7.0, 1.2 + 0.42 * len(table)), layout="constrained")
    places = range(len(table))
    colours = [TILE[1] if name == "spnb" else TILE[0] for name in table.index]
    ax.barh(places, table["ratio"], color=colours, height=0.7)
    ax.hlines(places, table["lowest"], table["highest"], color="black", linewidth=1.2)
    ax.axvline(1.0, color="black", linestyle="--", linewidth=1.0)
    for place, row in zip(places, table.itertuples(), strict=True):
        text = f"  {row.ratio:.2f}× ({time_text(row.seconds)})"
        ax.text(
            max(row.highest, row.ratio), place, text, va="center", fontsize=9, zorder=3
        ).set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})
    ax.set_yticks(places, table.index)
    ax.invert_yaxis()
    ax.set_xlim(0, 1.3 * table["highest"].max())
    ax.set_xlabel("time of a step as a multiple of spnb's: right of the line is slower")
    open_frame(ax)
    return ax
