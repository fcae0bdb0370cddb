"""How long others take on many workloads."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from .style import open_frame

MARKS = "os^DvPX*"


def suite(ratios: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw how many times as long as spnb's a step of each contestant takes, on a log scale.

    Parameters
    ----------
    ratios
        As `spnb.benchmarking.suite.Suite.ratios`.
    ax
        Where to draw; a new figure by default.
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
    ax.axvline(1.0, color="black", linestyle="--", linewidth=1.0)
    names = [f"{w} {size}², {tiles} tiles" for w, size, tiles in ratios.index]
    ax.set_yticks(places, names)
    ax.invert_yaxis()
    ax.set_xscale("log", base=2)
    low, high = ratios.min().min(), ratios.max().max()
    ticks = [t for t in (0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0) if t <= high]
    ticks = [t for t in ticks if t >= low] or [1.0]
    ax.set_xticks(ticks, [f"{t:g}" for t in ticks], minor=False)
    ax.minorticks_off()
    ax.set_xlabel("time of a step as a multiple of spnb's: right of the line is slower")
    ax.legend(loc="upper center", bbox_to_anchor=(0.45, -0.12), ncols=4, frameon=False, fontsize=9)
    open_frame(ax)
    return ax
