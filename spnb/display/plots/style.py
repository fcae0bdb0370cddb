"""The colours of all pictures, and their frame."""

from __future__ import annotations

from matplotlib.axes import Axes

from ...ir.exchange import Team
from ..cards import TILE
from ..kinds import KIND

__all__ = ["KIND", "TILE", "colour_of", "open_frame"]


def colour_of(team: Team, rank: int) -> str:
    """The colour of a rank's tile; neighbours in a grid have different colours."""
    *_, row, column = (0, *team.position(rank))
    checkers = len(team.tiling.grid) > 2
    return TILE[(column % 2 + 2 * (row % 2)) if checkers else column % len(TILE)]


def open_frame(ax: Axes) -> None:
    """Remove the frame's sides that carry no scale: top and right."""
    ax.spines[["top", "right"]].set_visible(False)
