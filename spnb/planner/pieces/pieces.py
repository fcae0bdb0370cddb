"""A value in pieces: tensors that are one after another along a dimension."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ...ir.axes import Axes, Factor, dim
from ...ir.region import Region, Span

POSITIONS = 1
"""The axis along which a value is in pieces, in axes of its own: see `Pieces.axes`."""

RANK = 16
"""Number of axes in these axes: more than the image has, so no rule takes them for an image's."""


@dataclass(frozen=True)
class Pieces:
    """A value in pieces.

    Attributes
    ----------
    axes
        Which dimension holds the positions that the pieces share out: the axis `POSITIONS`.
    names
        Name of each piece's value, in order.
    spans
        The positions of each piece.

    Examples
    --------
    >>> found = Pieces.along(1, (2, 145, 64), ["token", "tokens"], [1, 144])
    >>> found.shape_of(0), found.shape_of(1), found.spans
    ((2, 1, 64), (2, 144, 64), ((0, 1), (1, 145)))
    """

    axes: Axes
    names: tuple[str, ...]
    spans: tuple[Span, ...]

    @classmethod
    def along(
        cls, number: int, shape: Sequence[int], names: Sequence[str], sizes: Sequence[int]
    ) -> Pieces:
        """The pieces of a value of this shape, one after another along a dimension."""
        dims = [dim(n, POSITIONS if k == number else None) for k, n in enumerate(shape)]
        ends = [sum(sizes[: k + 1]) for k in range(len(sizes))]
        spans = tuple((end - size, end) for end, size in zip(ends, sizes, strict=True))
        return cls(Axes(tuple(dims), RANK), tuple(names), spans)

    @property
    def total(self) -> int:
        """Number of positions of all pieces."""
        return self.axes.extent[POSITIONS]

    @cached_property
    def number(self) -> int:
        """The dimension that holds the positions."""
        return next(k for k in range(len(self.axes.dims)) if self.axes.axes_of(k))

    @property
    def alone(self) -> bool:
        """Whether this dimension holds nothing but the positions."""
        return self.axes.dims[self.number] == (Factor(self.total, POSITIONS),)

    def shape_of(self, piece: int) -> tuple[int, ...]:
        """Shape of a piece."""
        return shape_within(self.axes, self.spans[piece])


def shape_within(axes: Axes, span: Span) -> tuple[int, ...]:
    """Shape of the part of a value that has these positions."""
    return axes.local_shape(Region.whole(axes.extent).along(POSITIONS, span))
