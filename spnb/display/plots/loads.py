"""The bytes that ranks send to each other, and the memory that they need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ..cards import size_text
from .style import TILE, open_frame

PARTS = (("process", "#BFBFBF"), ("weights", TILE[0]), ("values", TILE[1]))
"""The parts of a rank's memory, from below, and their colours."""

NUMBERED = 12
"""Most ranks of a matrix with a number in each cell; smaller cells have no room for it."""

IN_VIEW = 5
"""How many times as high as the bars a line may be that is drawn with them."""


def traffic(
    matrix: np.ndarray,
    borders: Sequence[int] = (),
    ax: Axes | None = None,
    beside: Sequence[np.ndarray] = (),
) -> Axes:
    """Draw the bytes that each rank sends to each other in one pass over the batch.

    Parameters
    ----------
    matrix
        Bytes from each rank (row) to each other (column); suits up to some hundred ranks.
    borders
        The first rank of each stage after stage 0; a line is drawn before it.
    ax
        Where to draw; a new figure by default.
    beside
        Other matrices, which the scale of the colours covers too.

    Returns
    -------
    matplotlib.axes.Axes
    """
    count = len(matrix)
    if ax is None:
        side = 4.2 if count <= 6 else 6.0
        _, ax = plt.subplots(figsize=(side + 1.2, side), layout="constrained")
    sent = np.ma.masked_equal(matrix, 0)
    if not sent.count():
        sent = np.ma.masked_array(matrix, mask=False)
    sizes = np.concatenate([each[each > 0].ravel() for each in (matrix, *beside)] + [[]])
    low, high = max(1.0, sizes.min(initial=np.inf)), max(2.0, sizes.max(initial=0.0))
    low = min(low, high)
    shown = ax.imshow(sent, cmap="YlGnBu", norm=LogNorm(low / 3, high), aspect="equal")
    if count <= NUMBERED:
        _number_cells(ax, matrix, low, high)
    for first in borders:
        ax.axhline(first - 0.5, color="black", linewidth=0.8)
        ax.axvline(first - 0.5, color="black", linewidth=0.8)
    ax.set_xlabel("to rank")
    ax.set_ylabel("from rank")
    ax.set_title(f"Sent in one pass: {size_text(float(matrix.sum()))}", fontsize=10)
    _byte_scale(ax, shown, low / 3, high)
    return ax


def _number_cells(ax: Axes, matrix: np.ndarray, low: float, high: float) -> None:
    """Write the bytes into each cell that is not 0; white on the dark cells of a logarithmic map.

    Parameters
    ----------
    low, high
        Least and most bytes of a cell.
    """
    count = len(matrix)
    for source, row in enumerate(matrix):
        for target, size in enumerate(row):
            if size:
                dark = np.log(size / low + 1) > 0.6 * np.log(high / low + 1)
                number, unit = size_text(size).split()
                ax.text(
                    target,
                    source,
                    f"{float(number):.4g}"[:4].rstrip(".") + f"\n{unit}",
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="white" if dark else "black",
                )
    ax.set_xticks(range(count))
    ax.set_yticks(range(count))


def _byte_scale(ax: Axes, shown: AxesImage, low: float, high: float) -> None:
    """Add a scale of the colours, with ticks at 1, 10 and 100 of each unit."""
    bar = ax.figure.colorbar(shown, ax=ax, shrink=0.8)
    ticks = [1024.0**k * 10**j for k in range(5) for j in range(3)]
    ticks = [t for t in ticks if low <= t <= high]
    bar.set_ticks(ticks, labels=[size_text(t) for t in ticks])
    bar.minorticks_off()


def memory(
    weights: np.ndarray,
    values: np.ndarray,
    process: int,
    untiled: int,
    measured: Mapping[int, int] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the most memory that each rank needs, with a line at the need of the untiled network.

    All bars, marks and the line are of a process that has imported PyTorch, above its size then.

    Parameters
    ----------
    weights, values
        The most bytes of weights and of values that each rank holds.
    process
        Bytes of a rank for any plan: its program, kernels and messages.
    untiled
        Bytes that the whole network needs on one device.
    measured
        Growth of each rank's process during a run, in bytes; drawn as marks.
    ax
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
    """
    ranks = range(len(weights))
    if ax is None:
        width = min(12.0, max(5.0, 1.6 + 0.5 * len(ranks)))
        _, ax = plt.subplots(figsize=(width, 3.6), layout="constrained")
    parts = np.array([np.full(len(ranks), process), weights, values])
    tops = parts.cumsum(axis=0)
    highest = max(tops.max(), max((measured or {0: 0}).values()))
    far = untiled > IN_VIEW * highest
    divisor, unit = _unit(highest if far else max(highest, untiled))
    for part, top, (_, colour) in zip(parts, tops, PARTS, strict=True):
        ax.bar(ranks, part / divisor, bottom=(top - part) / divisor, color=colour, width=0.7)
    ax.axhline(untiled / divisor, color="black", linestyle="--", linewidth=1.2)
    if far:  # the bars would have no height beside it
        ax.set_ylim(0, 1.3 * highest / divisor)
        text = f"↑ untiled need: {size_text(untiled)}, {untiled / highest:.0f} times the highest"
        ax.text(0.5, 0.97, text, ha="center", va="top", transform=ax.transAxes)
    if measured:
        ax.plot(ranks, [measured[r] / divisor for r in ranks], "D", color=TILE[5], markersize=5)
    if len(ranks) <= 32:
        ax.set_xticks(ranks)
    ax.set_xlabel("rank")
    ax.set_ylabel(f"most memory at once ({unit})")
    _legend(ax, untiled, measured=bool(measured), columns=4 if len(ranks) > 6 else 2)
    open_frame(ax)
    return ax


def _unit(highest: float) -> tuple[int, str]:
    """The bytes of a unit that suits a number of bytes, and the unit's name."""
    return next(
        (1024**k, name)
        for k, name in ((3, "GiB"), (2, "MiB"), (1, "KiB"), (0, "B"))
        if highest >= 1024**k or k == 0
    )


def _legend(ax: Axes, untiled: int, measured: bool, columns: int) -> None:
    """Put a legend of bars, line and marks above the picture."""
    handles: list[Patch | Line2D] = [
        *(Patch(facecolor=colour, label=name) for name, colour in PARTS),
        Line2D([], [], color="black", linestyle="--", label=f"untiled need, {size_text(untiled)}"),
    ]
    if measured:
        mark = Line2D([], [], color=TILE[5], marker="D", linestyle="", label="measured growth")
        handles.append(mark)
    ax.legend(
        handles=handles,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=columns,
        frameon=False,
        fontsize=9,
    )
