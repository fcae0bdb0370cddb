"""How a loss goes down."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from .style import open_frame


def loss(history: pd.DataFrame, ax: Axes | None = None, **line: Any) -> Axes:
    """Draw the loss of each step, and where epochs end.

    Parameters
    ----------
    history
        As `spnb.driver.training_loop.Training.history`.
    ax
        Where to draw; a new figure by default.  Several curves may share it.
    line
        Passed on to `matplotlib.axes.Axes.plot`: label, colour, …
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(7.0, 3.6), layout="constrained")
    if not ax.lines:
        ends = history.index[history["epoch"].diff() > 0]
        for end in ends if len(ends) < 40 else ():
            ax.axvline(end + 0.5, color="#DDDDDD", linewidth=0.8, zorder=0)
    ax.plot(range(1, len(history) + 1), history["loss"], **line)
    ax.set_xlabel("step")
    ax.set_ylabel("loss, mean over the batch")
    ax.set_ylim(bottom=0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    open_frame(ax)
    return ax
