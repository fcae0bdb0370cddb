"""The tiled output against the untiled one, position by position."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm

from ...ir.region import Region, Span

FLOOR = 1e-9  # of the scale: what is smaller is drawn as this


def difference(
    error: np.ndarray,
    scale: float,
    tolerance: float,
    tiles: list[Region] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw where an output differs from the untiled one, as a share of its scale.

    Parameters
    ----------
    error
        Absolute differences: ``(height, width)`` of a map, ``(batch, channels)`` of an output
        that has no space left.
    scale
        Largest absolute value of the untiled output.
    tolerance
        Where the colours of what does not pass begin.
    tiles
        Regions over ``(height, width)`` whose borders are drawn, where seams would be.
    ax
        Where to draw; a new figure by default.
    """
    height, width = error.shape
    if ax is None:
        tall = min(6.0, max(1.6, 6.4 * height / width) + 0.9)
        _, ax = plt.subplots(figsize=(7.2, tall), layout="constrained")
    share = np.maximum(error / (scale or 1.0), FLOOR)
    shown = ax.imshow(
        share,
        cmap="cividis",
        norm=LogNorm(FLOOR, 1.0),
        extent=(0, width, height, 0),
        aspect="equal"
        if min(height, width) > 1 and max(height, width) < 40 * min(height, width)
        else "auto",
        interpolation="nearest",
    )
    for region in tiles or ():
        (top, bottom), (left, right) = region.spans
        ax.plot(*_outline((top, bottom), (left, right)), color="white", linewidth=0.7)
    worst = float(error.max()) / (scale or 1.0)
    verdict = "within" if worst <= tolerance else "PAST"
    ax.set_title(
        f"Difference from the untiled run: at most {worst:.1e}, {verdict} {tolerance:g}",
        fontsize=10,
    )
    ax.set_xlabel("column" if tiles else "last axis")
    ax.set_ylabel("row" if tiles else "the others")
    bar = ax.figure.colorbar(shown, ax=ax, shrink=0.9, ticks=[10.0**k for k in range(-9, 1, 3)])
    bar.ax.axhline(tolerance, color="white", linewidth=2)
    bar.ax.axhline(tolerance, color="black", linewidth=1)
    bar.set_label("share of the output's scale (line: tolerance)", fontsize=8)
    return ax


def _outline(rows: Span, columns: Span) -> tuple[list[int], list[int]]:
    (top, bottom), (left, right) = rows, columns
    return [left, right, right, left, left], [top, top, bottom, bottom, top]
