"""Regions of a tensor and the tilings that cut an extent into them.

All data that moves in spnb is the intersection of a region that one rank *has* and a region that
another rank *needs*.  A region is an integer box over ``(batch, *spatial)``; channels are never
cut, so they do not appear here.

>>> tiling = Tiling.even((1, 2, 3))                 # one batch slice, 2 rows, 3 columns
>>> tiling.region((4, 7, 9), tile=5)
Region(0:4, 3:7, 6:9)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Span = tuple[int, int]
"""A half-open run ``[start, stop)`` along one axis."""


def intersect(a: Span, b: Span) -> Span:
    """Intersection of two spans; empty (``stop == start``) where they do not touch."""
    start = a[0] if a[0] > b[0] else b[0]  # `max` and `min` take twice as long, and plans need many
    stop = a[1] if a[1] < b[1] else b[1]
    return (start, stop if stop > start else start)


def join(a: Span, b: Span) -> Span:
    """Smallest span that contains both; an empty span adds nothing."""
    if a[0] >= a[1]:
        return b
    if b[0] >= b[1]:
        return a
    return (min(a[0], b[0]), max(a[1], b[1]))


def length(span: Span) -> int:
    """Number of positions in a span."""
    return max(0, span[1] - span[0])


@dataclass(frozen=True, slots=True, repr=False)
class Region:
    """An integer box: one half-open span for each axis of ``(batch, *spatial)``.

    Parameters
    ----------
    spans
        ``(start, stop)`` of each axis.

    Examples
    --------
    >>> tile, need = Region(((0, 2), (0, 4))), Region(((0, 2), (3, 6)))
    >>> tile & need
    Region(0:2, 3:4)
    >>> (tile & need).slices_in(need)
    (slice(0, 2, None), slice(0, 1, None))
    """

    spans: tuple[Span, ...]

    @classmethod
    def whole(cls, extent: Sequence[int]) -> Region:
        """The region that covers an extent."""
        return cls(tuple((0, n) for n in extent))

    @property
    def shape(self) -> tuple[int, ...]:
        """Length along each axis."""
        return tuple([stop - start if stop > start else 0 for start, stop in self.spans])

    @property
    def size(self) -> int:
        """Number of positions (channels not counted)."""
        return math.prod(self.shape)

    @property
    def empty(self) -> bool:
        """True where some axis has no position."""
        return 0 in self.shape

    def __and__(self, other: Region) -> Region:
        return Region(tuple(map(intersect, self.spans, other.spans)))

    def __or__(self, other: Region) -> Region:
        return Region(tuple(map(join, self.spans, other.spans)))

    def __contains__(self, other: Region) -> bool:
        return other.empty or self & other == other

    def along(self, axis: int, span: Span) -> Region:
        """The region with another span along an axis."""
        return Region((*self.spans[:axis], span, *self.spans[axis + 1 :]))

    def moved(self, images: int) -> Region:
        """The same box, moved by a number of images in the batch.

        >>> Region(((0, 2), (3, 5))).moved(4)
        Region(4:6, 3:5)
        """
        (start, stop), *space = self.spans
        return Region(((start + images, stop + images), *space))

    def around(self, inner: Region) -> list[Region]:
        """The regions that cover this one without an inner one; none overlaps another.

        ::

            ┌───────────────┐
            ├───┬───────┬───┤
            │   │ inner │   │
            ├───┴───────┴───┤
            └───────────────┘

        >>> Region(((0, 5), (0, 4))).around(Region(((1, 5), (1, 3))))
        [Region(0:1, 0:4), Region(1:5, 0:1), Region(1:5, 3:4)]
        """
        inner = self & inner
        if inner.empty:
            return [] if self.empty else [self]
        found, left = [], self
        for axis, (start, stop) in enumerate(inner.spans):
            low, high = left.spans[axis]
            found += [left.along(axis, (low, start)), left.along(axis, (stop, high))]
            left = left.along(axis, (start, stop))
        return [each for each in found if not each.empty]

    def slices_in(self, outer: Region) -> tuple[slice, ...]:
        """Index of this region in an array that covers ``outer``.

        Raises
        ------
        ValueError
            If the region is not inside ``outer``.
        """
        if self not in outer:
            raise ValueError(f"{self} is not inside {outer}")
        return tuple(
            slice(a - base, b - base)
            for (a, b), (base, _) in zip(self.spans, outer.spans, strict=True)
        )

    def __repr__(self) -> str:
        return f"Region({', '.join(f'{a}:{b}' for a, b in self.spans)})"


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


def shape_text(shape: Sequence[int]) -> str:
    """Return a shape as text, for messages.

    >>> shape_text((97, 131))
    '97×131'
    """
    return "×".join(map(str, shape)) or "1"


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
