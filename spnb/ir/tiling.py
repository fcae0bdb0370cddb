"""Grids that cut a batch of images into tiles.

>>> tiling = Tiling.even((1, 2, 3))                 # one batch slice, 2 rows, 3 columns
>>> tiling.region((4, 7, 9), tile=5)
Region(images 0:4, rows 3:7, columns 6:9)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .region import Region, Span


@dataclass(frozen=True, slots=True)
class Tiling:
    """A grid of tiles over ``(batch, *spatial)``.

    Ownership depends only on a tensor's extent: along an axis of extent ``n`` with weights ``w``,
    the k-th cut lies at ``n * sum(w[:k]) // sum(w)``.  So all tensors of one extent are cut in the
    same way, and an extent of any size can be cut.

    Parameters
    ----------
    weights
        For each axis the relative sizes of its parts; ``(1, 1, 1)`` cuts it into three even ones.

    Examples
    --------
    >>> Tiling.even((1, 2)).spans((3, 7))
    (((0, 3),), ((0, 3), (3, 7)))
    >>> Tiling(((1,), (3, 1))).spans((3, 8))            # custom cuts
    (((0, 3),), ((0, 6), (6, 8)))
    """

    weights: tuple[tuple[int, ...], ...]

    @classmethod
    def even(cls, grid: Sequence[int]) -> Tiling:
        """A grid of as nearly equal parts as whole positions allow."""
        return cls(tuple((1,) * n for n in grid))

    def refined(self, grid: Sequence[int]) -> Tiling:
        """The tiling that cuts each tile of this one into a grid of parts.

        >>> Tiling.even((1, 2)).refined((1, 2)).spans((3, 7))[1]
        ((0, 1), (1, 3), (3, 5), (5, 7))
        """
        pairs = zip(self.weights, grid, strict=True)
        return Tiling(tuple(tuple(w for w in axis for _ in range(n)) for axis, n in pairs))

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of parts along each axis of ``(batch, *spatial)``."""
        return tuple(map(len, self.weights))

    @property
    def num_tiles(self) -> int:
        """Number of tiles in the grid."""
        return math.prod(self.grid)

    @property
    def spatial(self) -> bool:
        """Whether the grid cuts the image, rather than only the batch."""
        return any(n > 1 for n in self.grid[1:])

    def spans(self, extent: Sequence[int]) -> tuple[tuple[Span, ...], ...]:
        """The owned spans of every part, axis by axis.

        Where an extent is smaller than its number of parts, some parts own nothing.

        Raises
        ------
        ValueError
            If the extent has another number of axes than the grid.
        """
        if len(extent) != len(self.grid):
            raise ValueError(f"a grid of {self.grid} cannot cut an extent of {tuple(extent)}")
        return tuple(map(_cuts, extent, self.weights))

    def coordinates(self, tile: int) -> tuple[int, ...]:
        """Position in the grid of tile number ``tile`` (row-major)."""
        position = []
        for parts in reversed(self.weights):
            tile, k = divmod(tile, len(parts))
            position.append(k)
        return tuple(reversed(position))

    def tile(self, coordinates: Sequence[int]) -> int:
        """Number of the tile at a position in the grid; inverse of `coordinates`."""
        number = 0
        for parts, k in zip(self.weights, coordinates, strict=True):
            number = number * len(parts) + k
        return number

    def region(self, extent: Sequence[int], tile: int) -> Region:
        """The region of a tensor of this extent that tile number ``tile`` owns."""
        position = self.coordinates(tile)
        return Region(tuple(s[k] for s, k in zip(self.spans(extent), position, strict=True)))


def in_patches(tilings: Sequence[Tiling], patches: Sequence[int]) -> list[Tiling]:
    """Return tilings of stages in which each tile of the first stage is cut into patches."""
    first, *others = tilings
    return [first.refined((1, *patches)), *others]


def _cuts(n: int, weights: tuple[int, ...]) -> tuple[Span, ...]:
    total, done, spans = sum(weights), 0, []
    for w in weights:
        spans.append((n * done // total, n * (done + w) // total))
        done += w
    return tuple(spans)


def grids_of(tiles: int, axes: int) -> list[tuple[int, ...]]:
    """Every grid of a number of tiles.

    >>> grids_of(4, axes=2)
    [(1, 4), (2, 2), (4, 1)]
    """
    if axes == 1:
        return [(tiles,)]
    first = (n for n in range(1, tiles + 1) if tiles % n == 0)
    return [(n, *rest) for n in first for rest in grids_of(tiles // n, axes - 1)]


def grid_of(method: str, tiles: int, axes: int) -> tuple[int, ...]:
    """The spatial grid that a slice method makes of a number of tiles.

    Parameters
    ----------
    method
        ``"vertical"`` cuts the width (last axis), ``"horizontal"`` the height (last but one),
        ``"square"`` takes the grid nearest to a square (cube); ``"2x3"`` is itself a grid.
    tiles
        Number of tiles.
    axes
        Number of spatial axes: 1, 2 or 3.

    Raises
    ------
    ValueError
        For an unknown method, or a named grid that does not have this many tiles or axes.

    Examples
    --------
    >>> grid_of("square", 6, axes=2), grid_of("vertical", 4, axes=2), grid_of("square", 8, axes=3)
    ((2, 3), (1, 4), (2, 2, 2))
    """
    if method == "vertical":
        return (1,) * (axes - 1) + (tiles,)
    if method == "horizontal":
        return (1,) * max(axes - 2, 0) + (tiles,) + (1,) * min(axes - 1, 1)
    if method == "square":
        grid = []
        for left in range(axes, 0, -1):
            side = max(d for d in range(1, tiles + 1) if tiles % d == 0 and d**left <= tiles)
            grid.append(side)
            tiles //= side
        return tuple(grid)
    try:
        grid = [int(n) for n in method.split("x")]
    except ValueError:
        raise ValueError(
            f"unknown slice method {method!r}: use square, vertical, horizontal, or a grid such as"
            " 2x3"
        ) from None
    if len(grid) != axes or math.prod(grid) != tiles or min(grid) < 1:
        raise ValueError(
            f"the grid {method} has {len(grid)} axes and {math.prod(grid)} tiles, but the image has"
            f" {axes} axes and the stage {tiles} tiles: make them agree"
        )
    return tuple(grid)
