"""How long a halo exchange takes, over its bytes."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from .style import open_frame

KINDS = {"exchange": "o-", "ping": "s--", "copy": "^:"}
"""Columns of the table, and how they are drawn."""


def halo_speed(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw seconds of an exchange, of bare messages and of a copy over the bytes received.

    Parameters
    ----------
    table
        As `spnb.benchmarking.halo_exchange.HaloSpeed.table`.
    ax
        Where to draw; a new figure by default.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(7.0, 4.0), layout="constrained")
    for number, (tiles, rows) in enumerate(table.groupby("tiles")):
        rows = rows.groupby("bytes").median(numeric_only=True)
        for name, style in KINDS.items():
            label = {"ping": "bare MPI messages", "copy": "copy in memory"}.get(name, name)
            ax.plot(
                rows.index / 1024, 1e6 * rows[name], style, color=f"C{number}",
                label=f"{tiles} tiles: {label}", markersize=5,
            )  # fmt: skip
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_major_formatter("{x:g}")
    ax.set_xlabel("KiB received by the rank that receives most")
    ax.set_ylabel("microseconds")
    ax.legend(frameon=False, fontsize=9)
    open_frame(ax)
    return ax
