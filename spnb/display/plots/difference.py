"""The tiled output against the untiled one, position by position."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.image import AxesImage

from ...ir.region import Region, Span

FLOOR = 1e-9
"""Share of the scale; smaller differences are drawn in the same colour."""

MOST_UNEQUAL = 40
"""Ratio of the longer side to the shorter one from which pixels are stretched to fill the axes."""


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
        Absolute differences: ``(height, width)`` of a map, or ``(batch, channels)`` of an output
        without space.
    scale
        Largest absolute value of the untiled output.
    tolerance
        Largest share of the scale that passes; the colour bar marks it.
    tiles
        Regions over ``(height, width)``; their borders are drawn.
    ax
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
    """
    height, width = error.shape
    if ax is None:
        tall = min(6.0, max(1.6, 6.4 * height / width) + 0.9)
        _, ax = plt.subplots(figsize=(7.2, tall), layout="constrained")
    shorter, longer = sorted(error.shape)
    shown = ax.imshow(
        np.maximum(error / (scale or 1.0), FLOOR),
        cmap="cividis",
        norm=LogNorm(FLOOR, 1.0),
        extent=(0, width, height, 0),
        aspect="equal" if shorter > 1 and longer < MOST_UNEQUAL * shorter else "auto",
        interpolation="nearest",
    )
    for region in tiles or ():
        ax.plot(*_outline(*region.spans), color="white", linewidth=0.7)
    worst = float(error.max()) / (scale or 1.0)
    verdict = "within" if worst <= tolerance else "PAST"
    ax.set_title(
        f"Difference from the untiled run: at most {worst:.1e}, {verdict} {tolerance:g}",
        fontsize=10,
    )
    ax.set_xlabel("column" if tiles else "last axis")
    ax.set_ylabel("row" if tiles else "the others")
    _colour_bar(ax, shown, tolerance)
    return ax


def _colour_bar(ax: Axes, shown: AxesImage, tolerance: float) -> None:
    """Add a scale of the colours, with a line at the tolerance."""
    bar = ax.figure.colorbar(shown, ax=ax, shrink=0.9, ticks=[10.0**k for k in range(-9, 1, 3)])
    bar.ax.axhline(tolerance, color="white", linewidth=2)
    bar.ax.axhline(tolerance, color="black", linewidth=1)
    bar.set_label("share of the output's scale (line: tolerance)", fontsize=8)


def _outline(rows: Span, columns: Span) -> tuple[list[int], list[int]]:
    """Columns and rows of the corners of a region, in the order in which they are joined."""
    (top, bottom), (left, right) = rows, columns
    return [left, right, right, left, left], [top, top, bottom, bottom, top]
