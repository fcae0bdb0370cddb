"""What fused halos cost, over their length."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from .style import open_frame


def lengths(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the time of a step over the fused blocks, a line for each number of tiles.

    Each is relative to an exchange before each window operator (or the first length), and its
    redundant work is drawn dashed.

    Parameters
    ----------
    table
        As `spnb.benchmarking.sweep.Sweep.table`.
    ax
        Where to draw; a new figure by default.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(7.0, 4.0), layout="constrained")
    for number, (tiles, rows) in enumerate(table.groupby(level="tiles")):
        names = rows.index.get_level_values("fused")
        relative = rows.seconds / rows.seconds.iloc[0]
        colour = f"C{number}"
        ax.plot(range(len(rows)), relative, "o-", color=colour, label=f"{tiles} tiles: time")
        work = 1 + rows.redundant
        ax.plot(range(len(rows)), work, "--", color=colour, label=f"{tiles} tiles: work")
        best = int(rows.best.to_numpy().argmax())
        ax.plot([best], [relative.iloc[best]], "o", color=colour, markersize=12, fillstyle="none")
        ax.set_xticks(range(len(rows)), names)
    ax.axhline(1.0, color="0.6", linewidth=0.8, zorder=0)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("blocks that share an exchange")
    ax.set_ylabel(f"relative to {names[0]}")
    ax.legend(frameon=False, ncols=2, fontsize=9)
    open_frame(ax)
    return ax
