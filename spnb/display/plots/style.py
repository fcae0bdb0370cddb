"""The colours of all pictures, and their frame."""

from __future__ import annotations

from matplotlib.axes import Axes

from ...ir.exchange import Team
from ..cards import TILE

__all__ = ["KIND", "TILE", "colour_of", "open_frame"]

KIND = {
    "compute": "#56B4E9",
    "read": "#CC79A7",
    "pack": "#E69F00",
    "unpack": "#0072B2",
    "hand-over": "#009E73",
    "wait": "#BFBFBF",
    "idle": "#EDEDED",
}
"""Colour of each kind of event.  Idle: a rank waits for the stage before its own."""


def colour_of(team: Team, rank: int) -> str:
    """The colour of a rank's tile; neighbours in a grid have different colours."""
    *_, row, column = (0, *team.position(rank))
    checkers = len(team.tiling.grid) > 2
    return TILE[(column % 2 + 2 * (row % 2)) if checkers else column % len(TILE)]


def open_frame(ax: Axes) -> None:
    """Remove the frame's sides that carry no scale: top and right."""
    ax.spines[["top", "right"]].set_visible(False)
