"""What ranks send to each other, and what they hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ..cards import size_text
from .style import TILE, open_frame

NUMBERED = 12  # ranks of a matrix whose cells have room for a number


def traffic(matrix: np.ndarray, borders: Sequence[int] = (), ax: Axes | None = None) -> Axes:
    """Draw the bytes that each rank sends to each other in one pass over the batch.

    Parameters
    ----------
    matrix
        Bytes from each rank (row) to each other (column); for up to some hundred ranks.
    borders
        First rank of each stage but stage 0: a line is drawn before it.
    ax
        Where to draw; a new figure by default.
    """
    count = len(matrix)
    if ax is None:
        side = 4.2 if count <= 6 else 6.0
        _, ax = plt.subplots(figsize=(side + 1.2, side), layout="constrained")
    sent = np.ma.masked_equal(matrix, 0)
    if not sent.count():
        sent = np.ma.masked_array(matrix, mask=False)
    low, high = max(1.0, float(sent.min())), max(2.0, float(sent.max()))
    shown = ax.imshow(sent, cmap="YlGnBu", norm=LogNorm(low / 3, high), aspect="equal")
    if count <= NUMBERED:
        for source, row in enumerate(matrix):
            for target, size in enumerate(row):
                if size:
                    dark = np.log(size / low + 1) > 0.6 * np.log(high / low + 1)
                    ax.text(
                        target,
                        source,
                        size_text(size).replace(" ", "\n"),
                        ha="center",
                        va="center",
                        fontsize=8 if count <= 6 else 6,
                        color="white" if dark else "black",
                    )
        ax.set_xticks(range(count))
        ax.set_yticks(range(count))
    for first in borders:
        ax.axhline(first - 0.5, color="black", linewidth=0.8)
        ax.axvline(first - 0.5, color="black", linewidth=0.8)
    ax.set_xlabel("to rank")
    ax.set_ylabel("from rank")
    ax.set_title(f"Sent in one pass: {size_text(float(matrix.sum()))}", fontsize=10)
    bar = ax.figure.colorbar(shown, ax=ax, shrink=0.8)
    ticks = [1024.0**k * 10**j for k in range(5) for j in range(3)]
    ticks = [t for t in ticks if low / 3 <= t <= high]
    bar.set_ticks(ticks, labels=[size_text(t) for t in ticks])
    bar.minorticks_off()
    return ax


def memory(
    weights: np.ndarray,
    values: np.ndarray,
    untiled: int,
    measured: Mapping[int, int] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw what each rank holds at most, against the whole network on one device.

    Parameters
    ----------
    weights, values
        Bytes that each rank holds at most; what operators need beside them (workspace) and the
        process itself are not in it.
    untiled
        Bytes that the whole network needs on one device.
    measured
        Growth of each rank's process during a run, in bytes; drawn as marks.
    ax
        Where to draw; a new figure by default.
    """
    ranks = range(len(weights))
    if ax is None:
        width = min(12.0, max(5.0, 1.6 + 0.5 * len(ranks)))
        _, ax = plt.subplots(figsize=(width, 3.6), layout="constrained")
    highest = max(untiled, (weights + values).max(), max((measured or {0: 0}).values()))
    divisor, unit = next(
        (1024**k, name)
        for k, name in ((3, "GiB"), (2, "MiB"), (1, "KiB"), (0, "B"))
        if highest >= 1024**k or k == 0
    )
    ax.bar(ranks, weights / divisor, color=TILE[0], width=0.7)
    ax.bar(ranks, values / divisor, bottom=weights / divisor, color=TILE[1], width=0.7)
    ax.axhline(untiled / divisor, color="black", linestyle="--", linewidth=1.2)
    handles = [
        Patch(facecolor=TILE[0], label="weights"),
        Patch(facecolor=TILE[1], label="values in hand"),
        Line2D([], [], color="black", linestyle="--", label=f"untiled need, {size_text(untiled)}"),
    ]
    if measured:
        heights = [measured[rank] / divisor for rank in ranks]
        ax.plot(ranks, heights, "D", color=TILE[5], markersize=5)
        mark = Line2D([], [], color=TILE[5], marker="D", linestyle="", label="measured growth")
        handles.append(mark)
    if len(ranks) <= 32:
        ax.set_xticks(ranks)
    ax.set_xlabel("rank")
    ax.set_ylabel(f"most memory at once ({unit})")
    ax.legend(
        handles=handles,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=4 if len(ranks) > 6 else 2,
        frameon=False,
        fontsize=9,
    )
    open_frame(ax)
    return ax
