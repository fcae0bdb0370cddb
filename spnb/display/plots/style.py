"""The colours of all pictures, and their frame."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

from ...ir.exchange import Team
from ..cards import TILE
from ..kinds import KIND

__all__ = ["KIND", "TILE", "colour_of", "open_frame", "text_on"]


def colour_of(team: Team, rank: int) -> str:
    """The colour of a rank's tile; neighbours in a grid have different colours."""
    *_, row, column = (0, *team.position(rank))
    checkers = len(team.tiling.grid) > 2
    return TILE[(column % 2 + 2 * (row % 2)) if checkers else column % len(TILE)]


def text_on(colour: str) -> str:
    """Black or white, whichever is read better on a colour: the contrast of WCAG 2.1.

    >>> text_on("#0072B2"), text_on("#F0E442")
    ('white', 'black')
    """
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    luminance = sum(share * c for share, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return "white" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 else "black"


def open_frame(ax: Axes) -> None:
    """Remove the frame's sides that carry no scale: top and right."""
    ax.spines[["top", "right"]].set_visible(False)
