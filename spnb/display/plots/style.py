"""What pictures have in common: what colour stands for what, and an open frame."""

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
"""What a rank does; idle: it waits for the stage before its own."""


def colour_of(team: Team, rank: int) -> str:
    """A tile's colour: neighbours in a grid get different ones."""
    *_, row, column = (0, *team.position(rank))
    checkers = len(team.tiling.grid) > 2
    return TILE[(column % 2 + 2 * (row % 2)) if checkers else column % len(TILE)]


def open_frame(ax: Axes) -> None:
    """Leave only the axes that carry a scale."""
    ax.spines[["top", "right"]].set_visible(False)
