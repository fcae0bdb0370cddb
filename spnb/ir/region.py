"""Regions of a tensor: what a rank has, what it needs, and what moves between ranks.

All data that moves in spnb is the intersection of a region that one rank *has* and a region that
another rank *needs*.  A region is an integer box over ``(batch, *spatial)``; channels are never
cut, so they do not appear here.

>>> Region(((0, 1), (0, 5))) & Region(((0, 1), (3, 9)))
Region(0:1, 3:5)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

AXES = {
    3: ("images ", "rows ", "columns "),
    4: ("images ", "planes ", "rows ", "columns "),
}
"""Names of the axes of a region of images and of volumes, as a region is printed."""

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
    >>> Region.whole((1, 64, 48))
    Region(images 0:1, rows 0:64, columns 0:48)
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
        if other is self:
            return True
        within = (a <= c and d <= b for (a, b), (c, d) in zip(self.spans, other.spans, strict=True))
        return all(within) or other.empty

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
        names = AXES.get(len(self.spans), ("",) * len(self.spans))
        spans = (f"{n}{a}:{b}" for n, (a, b) in zip(names, self.spans, strict=True))
        return f"Region({', '.join(spans)})"


def shape_text(shape: Sequence[int]) -> str:
    """Return a shape as text, for messages.

    >>> shape_text((97, 131))
    '97×131'
    """
    return "×".join(map(str, shape)) or "1"
