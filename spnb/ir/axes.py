"""Which dimension of a tensor holds which axis of the image.

A region is a box over ``(batch, *spatial)`` of the image; a tensor may have any shape.  `Axes` say
which dimensions of the tensor hold those axes, and so which part of the tensor belongs to a tile::

    (2, 64, 97, 131)     batch | 64 channels | height | width            input of a convolution
    (2, 97, 131, 64)     batch | height | width | 64 channels            after a permute
    (2, 97·131, 64)      batch | height·width | 64 channels              tokens
    (2·14·19, 49, 64)    batch·rows·columns | 49 | 64 channels           windows of 7×7

Every dimension is a product of factors; the first varies slowest.  A factor is an axis of the
image, or a number of positions that are never cut (channels, positions inside a window).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from .region import Region

Extent = tuple[int, ...]
"""Sizes along ``(batch, *spatial)``."""


@dataclass(frozen=True, slots=True)
class Factor:
    """A factor of a dimension: ``size`` positions along an axis.

    ``axis`` is 0 for the batch, 1, 2, ... for space, and None for positions that are never cut.
    """

    size: int
    axis: int | None = None


Dim = tuple[Factor, ...]


@dataclass(frozen=True)
class Axes:
    """Where the axes of the image lie in a tensor.

    Parameters
    ----------
    dims
        The factors of each dimension; a dimension of size 1 has none.
    rank
        Number of axes of the image, ``1 + spatial``; an axis without a factor has extent 1.

    Examples
    --------
    >>> image = Axes.image((2, 64, 97, 131))
    >>> image.extent, image.channels
    ((2, 97, 131), 64)
    >>> tokens = Axes((image.dims[0], (*image.dims[2], *image.dims[3]), image.dims[1]), rank=3)
    >>> tokens.shape, tokens.local_shape(Region(((0, 1), (0, 10), (0, 20))))
    ((2, 12707, 64), (1, 200, 64))
    """

    dims: tuple[Dim, ...]
    rank: int

    @classmethod
    def image(cls, shape: Sequence[int], rank: int | None = None) -> Axes:
        """Axes of a tensor ``(batch, channels, *spatial)``.

        If ``rank`` is given, and the tensor has another number of dimensions than such an image,
        only its first dimension holds an axis: the batch.
        """
        rank = rank or len(shape) - 1
        axis: list[int | None] = [0, None, *range(1, rank)]
        if len(shape) != rank + 1:
            axis = [0] + [None] * len(shape)
        return cls(tuple(dim(n, axis[k]) for k, n in enumerate(shape)), rank)

    @classmethod
    def uncut(cls, shape: Sequence[int], rank: int) -> Axes:
        """Axes of a tensor that is never cut: no dimension holds an axis."""
        return cls(tuple(map(dim, shape)), rank)

    def __getstate__(self) -> dict[str, Any]:
        return {"dims": self.dims, "rank": self.rank}  # cached properties are left out

    @property
    def factors(self) -> Iterator[Factor]:
        """The factors of all dimensions, in order."""
        return (factor for factors in self.dims for factor in factors)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole tensor."""
        return tuple(map(size_of, self.dims))

    @cached_property
    def extent(self) -> Extent:
        """Sizes of the whole tensor along ``(batch, *spatial)``."""
        sizes = {factor.axis: factor.size for factor in self.factors}
        return tuple(sizes.get(axis, 1) for axis in range(self.rank))

    @cached_property
    def channels(self) -> int:
        """Number of elements at one position of ``(batch, *spatial)``."""
        return math.prod(factor.size for factor in self.factors if factor.axis is None)

    @cached_property
    def present(self) -> frozenset[int]:
        """Axes that some dimension holds; the others have extent 1."""
        return frozenset(f.axis for f in self.factors if f.axis is not None)

    def axes_of(self, number: int) -> tuple[int, ...]:
        """The axes in a dimension."""
        return axes_in(self.dims[number])

    def local_shape(self, region: Region) -> tuple[int, ...]:
        """Shape of the piece that covers a region."""
        return tuple(math.prod(sizes) for sizes in self._local(region))

    def local_bytes(self, region: Region, itemsize: int) -> int:
        """Bytes of the piece that covers a region, with elements of this size."""
        return math.prod(self.local_shape(region)) * itemsize

    def _local(self, region: Region) -> list[list[int]]:
        extents = region.shape
        return [[f.size if f.axis is None else extents[f.axis] for f in d] for d in self.dims]

    def piece(self, tensor: torch.Tensor, held: Region, region: Region) -> torch.Tensor:
        """The piece of a tensor that covers a region: a view, if a view can be made.

        Parameters
        ----------
        tensor
            A tensor that covers the region ``held``.
        held, region
            Regions of the image.

        Raises
        ------
        ValueError
            If the region is not inside ``held``.
        """
        if held == region:
            return tensor
        box = region.slices_in(held)
        if self.plain:
            return tensor[self._index(box)]
        factors, index = self._unfolded(tensor, held, box)
        return factors[index].reshape(self.local_shape(region))

    def put(self, target: torch.Tensor, held: Region, region: Region, piece: torch.Tensor) -> None:
        """Write a piece that covers ``region`` into a contiguous tensor that covers ``held``."""
        box = region.slices_in(held)
        if self.plain:
            target[self._index(box)] = piece
        else:
            factors, index = self._unfolded(target, held, box)
            factors[index] = piece.reshape([n for sizes in self._local(region) for n in sizes])

    def within(self, held: Region, region: Region) -> tuple[slice, ...]:
        """Index of a region in a tensor that covers ``held``; needs `plain` axes."""
        return self._index(region.slices_in(held))

    def index(self, region: Region) -> tuple[slice, ...]:
        """Index of a region in the whole tensor; needs `plain` axes."""
        return self.within(Region.whole(self.extent), region)

    @property
    def plain(self) -> bool:
        """Whether no dimension holds several factors."""
        return all(len(factors) < 2 for factors in self.dims)

    def _index(self, box: Sequence[slice]) -> tuple[slice, ...]:
        axes = (axes_in(factors) for factors in self.dims)
        return tuple(box[a[0]] if a else slice(None) for a in axes)

    def _unfolded(
        self, tensor: torch.Tensor, held: Region, box: Sequence[slice]
    ) -> tuple[torch.Tensor, tuple[slice, ...]]:
        sizes = [n for local in self._local(held) for n in local]
        index = (slice(None) if f.axis is None else box[f.axis] for f in self.factors)
        return tensor.reshape(sizes), tuple(index)

    def resized(self, number: int, size: int) -> Axes:
        """The same axes with another size of one dimension, which holds at most one axis."""
        found = self.axes_of(number)
        changed = dim(size, found[0] if found else None)
        return self.with_dims((*self.dims[:number], changed, *self.dims[number + 1 :]))

    def without(self, number: int) -> Axes:
        """The same axes with one dimension reduced to a single position."""
        return self.with_dims([() if k == number else d for k, d in enumerate(self.dims)])

    def with_dims(self, dims: Sequence[Dim]) -> Axes:
        """Axes of the same image with other dimensions."""
        return replace(self, dims=tuple(map(tuple, dims)))

    def __repr__(self) -> str:
        names: dict[int | None, str] = {k: f"axis{k} " for k in range(1, self.rank)}
        names |= {None: "", 0: "batch "}
        text = ("·".join(f"{names[f.axis]}{f.size}" for f in d) or "1" for d in self.dims)
        return f"Axes({' | '.join(text)})"


def dim(size: int, axis: int | None = None) -> Dim:
    """A dimension of one factor; a dimension of size 1 has no factor."""
    return () if size == 1 else (Factor(size, axis),)


def size_of(factors: Dim) -> int:
    """Number of positions of a dimension."""
    return math.prod(factor.size for factor in factors)


def joined(factors: Sequence[Factor]) -> Dim:
    """Factors with neighbours joined, if the faster of two is no axis of its own."""
    found: list[Factor] = []
    for factor in factors:
        if found and factor.axis is None:
            found[-1] = Factor(found[-1].size * factor.size, found[-1].axis)
        else:
            found.append(factor)
    return tuple(found)


def axes_in(factors: Dim) -> tuple[int, ...]:
    """The axes among the factors of a dimension."""
    return tuple(f.axis for f in factors if f.axis is not None)


def is_image(axes: Axes) -> bool:
    """Whether a value is a batch of images or volumes; these are stored with channels last."""
    return len(axes.dims) in (4, 5) and axes.plain


def rows_beside(need: Region, own: Region, axes: Axes) -> bool:
    """Whether a need is a tile with rows above and below it, all in one run of memory.

    That requires a single image with channels last, and the same columns in both.
    """
    same = need.spans[0] == own.spans[0] and need.spans[2:] == own.spans[2:]
    return same and need.shape[0] == 1 and own in need and is_image(axes)
