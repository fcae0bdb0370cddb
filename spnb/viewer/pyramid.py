"""An image in levels of tiles of 256×256 pixels, each read only when it is asked for.

Level 0 has every pixel, level n every 2ⁿ-th; the last level is a single tile::

    level 2   ┌─┐          level 1   ┌─┬─┐          level 0   ┌─┬─┬─┬─┐
              └─┘                    ├─┼─┤                    ├─┼─┼─┼─┤
                                     └─┴─┘                    ├─┼─┼─┼─┤  …
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..io.strided import Strided
from ..ir.region import Span

TILE = 256
"""Pixels along a side of a tile."""

PIECES = 64
"""Pieces of a file that are read for the first picture of a tile; a later one may take more."""

Read = Callable[[tuple[Span, Span], int, int | None], Strided]
"""Reads every n-th pixel of rows and columns, from so many pieces of the file at most."""


@dataclass(frozen=True)
class Pyramid:
    """An image in levels of tiles.

    Attributes
    ----------
    height, width
        Size of the image, in pixels.
    read
        Reads a part of it.

    Examples
    --------
    >>> pyramid = Pyramid(65536, 3000, lambda window, step, most: (window, step))
    >>> pyramid.levels, pyramid.tile(8, 0, 0), pyramid.tile(7, 1, 0)
    (9, (((0, 65536), (0, 3000)), 256), (((32768, 65536), (0, 3000)), 128))
    """

    height: int
    width: int
    read: Read

    @property
    def levels(self) -> int:
        """Number of levels."""
        tiles = -(-max(self.height, self.width) // TILE)
        return 1 + (tiles - 1).bit_length()

    def whole(self, side: int) -> Strided:
        """Read all of it, with at most so many pixels along a side."""
        step = -(-max(self.height, self.width) // side)
        return self.read(((0, self.height), (0, self.width)), step, PIECES)

    def tile(self, level: int, row: int, column: int, most: int | None = PIECES) -> Strided:
        """Read a tile.

        Parameters
        ----------
        level, row, column
            Its place.
        most
            Pieces of the file to read at most; None for all that it takes.

        Raises
        ------
        ValueError
            If there is no such tile.
        """
        side = TILE << level if 0 <= level < self.levels else 0
        corner = (row * side, column * side)
        inside = (0 <= a < n for a, n in zip(corner, (self.height, self.width), strict=True))
        if not side or not all(inside):
            raise ValueError(f"there is no tile {row}, {column} at level {level}")
        rows, columns = (
            (a, min(a + side, n)) for a, n in zip(corner, (self.height, self.width), strict=True)
        )
        return self.read((rows, columns), 1 << level, most)
