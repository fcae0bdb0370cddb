"""Which dimension of a tensor holds which axis of the image.

Regions are boxes over ``(batch, *spatial)``, whatever shape a tensor has.  `Axes` tells where those
axes lie in it, so that a tile of the image is a piece of the tensor::

    (2, 64, 97, 131)     batch | 64 channels | height | width            what a convolution reads
    (2, 97, 131, 64)     batch | height | width | 64 channels            after a permute
    (2, 97·131, 64)      batch | height·width | 64 channels              tokens
    (2·14·19, 49, 64)    batch·rows·columns | 49 | 64 channels           windows of 7×7

Every dimension is a product of factors, slowest first; a factor is an axis of the image, or
a number of positions that are never cut (channels, the inside of a window).
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
    """A part of a dimension: ``size`` positions along an axis; of none where ``axis`` is None."""

    size: int
    axis: int | None = None


Dim = tuple[Factor, ...]


@dataclass(frozen=True)
class Axes:
    """Where the axes of the image lie in a tensor.

    Parameters
    ----------
    dims
        The factors of each dimension; none where its size is 1.
    rank
        Number of axes of the image, ``1 + spatial``; those that no factor names have extent 1.

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
        """Of a tensor ``(batch, channels, *spatial)``; one of another rank has its batch only."""
        rank = rank or len(shape) - 1
        axis: list[int | None] = [0, None, *range(1, rank)]
        if len(shape) != rank + 1:
            axis = [0] + [None] * len(shape)
        return cls(tuple(dim(n, axis[k]) for k, n in enumerate(shape)), rank)

    @classmethod
    def uncut(cls, shape: Sequence[int], rank: int) -> Axes:
        """Of a tensor that is never cut."""
        return cls(tuple(map(dim, shape)), rank)

    def __getstate__(self) -> dict[str, Any]:
        return {"dims": self.dims, "rank": self.rank}  # without what is cached

    def _factors(self) -> Iterator[Factor]:
        return (factor for factors in self.dims for factor in factors)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Of the whole tensor."""
        return tuple(map(size_of, self.dims))

    @cached_property
    def extent(self) -> Extent:
        """Of the whole tensor along ``(batch, *spatial)``."""
        sizes = {factor.axis: factor.size for factor in self._factors()}
        return tuple(sizes.get(axis, 1) for axis in range(self.rank))

    @cached_property
    def channels(self) -> int:
        """Elements at one position of ``(batch, *spatial)``."""
        return math.prod(factor.size for factor in self._factors() if factor.axis is None)

    @cached_property
    def present(self) -> frozenset[int]:
        """Axes that some dimension holds: those of an extent over 1."""
        return frozenset(f.axis for f in self._factors() if f.axis is not None)

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
        """The piece of a tensor over ``held`` that covers a region: a view, where one can be.

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
        """Write the piece that covers a region into a contiguous tensor over ``held``."""
        box = region.slices_in(held)
        if self.plain:
            target[self._index(box)] = piece
        else:
            factors, index = self._unfolded(target, held, box)
            factors[index] = piece.reshape([n for sizes in self._local(region) for n in sizes])

    def within(self, held: Region, region: Region) -> tuple[slice, ...]:
        """Where a region lies in a tensor over ``held``, if no dimension holds several axes."""
        return self._index(region.slices_in(held))

    def index(self, region: Region) -> tuple[slice, ...]:
        """Where a region lies in the whole tensor, if no dimension holds several axes."""
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
        index = (slice(None) if f.axis is None else box[f.axis] for f in self._factors())
        return tensor.reshape(sizes), tuple(index)

    def resized(self, number: int, size: int) -> Axes:
        """With another size of one dimension, which holds at most one axis."""
        found = self.axes_of(number)
        changed = dim(size, found[0] if found else None)
        return self.with_dims((*self.dims[:number], changed, *self.dims[number + 1 :]))

    def without(self, number: int) -> Axes:
        """As if one dimension had a single position."""
        return self.with_dims([() if k == number else d for k, d in enumerate(self.dims)])

    def with_dims(self, dims: Sequence[Dim]) -> Axes:
        """The same image, with other dimensions."""
        return replace(self, dims=tuple(map(tuple, dims)))

    def __repr__(self) -> str:
        names: dict[int | None, str] = {k: f"axis{k} " for k in range(1, self.rank)}
        names |= {None: "", 0: "batch "}
        text = ("·".join(f"{names[f.axis]}{f.size}" for f in d) or "1" for d in self.dims)
        return f"Axes({' | '.join(text)})"


def dim(size: int, axis: int | None = None) -> Dim:
    """A dimension of one factor; of none for a single position."""
    return () if size == 1 else (Factor(size, axis),)


def size_of(factors: Dim) -> int:
    """Number of positions of a dimension."""
    return math.prod(factor.size for factor in factors)


def axes_in(factors: Dim) -> tuple[int, ...]:
    """The axes among the factors of a dimension."""
    return tuple(f.axis for f in factors if f.axis is not None)


def broadcast(shape: Sequence[int], operands: Sequence[Axes], rank: int) -> Axes:
    """Axes of the result of an operator that broadcasts its operands against each other.

    A dimension takes its axes from the first operand that has any there; an axis that another
    dimension has already taken is not taken twice.

    >>> broadcast((2, 8, 4, 4), [Axes.image((1, 8, 1, 1)), Axes.image((2, 8, 4, 4))], rank=3)
    Axes(batch 2 | 8 | axis1 4 | axis2 4)
    """
    dims: list[Dim] = []
    taken: set[int] = set()
    for number, size in enumerate(shape):
        found = dim(size)
        for axes in operands:
            at = number - (len(shape) - len(axes.dims))
            if at < 0 or size_of(axes.dims[at]) != size:
                continue
            names = axes_in(axes.dims[at])
            if names and not taken & set(names):
                found = axes.dims[at]
                break
            if not names and len(axes.dims[at]) == 1 and found == dim(size):
                found = axes.dims[at]
        taken |= set(axes_in(found))
        dims.append(found)
    return Axes(tuple(dims), rank)


def joined_along(
    number: int, along: Dim, shape: Sequence[int], operands: Sequence[Axes], rank: int
) -> Axes:
    """Axes of a result that is broadcast, but for one dimension, which is ``along``.

    >>> x = Axes.image((2, 8, 4, 4))
    >>> joined_along(1, dim(16), (2, 16, 4, 4), [x, x], rank=3)
    Axes(batch 2 | 16 | axis1 4 | axis2 4)
    """
    beside = (*shape[:number], 1, *shape[number + 1 :])
    found = broadcast(beside, [axes.without(number) for axes in operands], rank)
    return found.with_dims([*found.dims[:number], along, *found.dims[number + 1 :]])


def aligned(axes: Axes, result: Axes) -> dict[int, bool]:
    """Of each axis that an operand holds, whether it lies where the result has it too."""
    shift = len(result.dims) - len(axes.dims)
    found: dict[int, bool] = {}
    for number, factors in enumerate(axes.dims):
        for axis in axes_in(factors):
            found[axis] = number + shift >= 0 and result.dims[number + shift] == factors
    return found


def fitted(tensor: torch.Tensor, axes: Axes, result: Axes, region: Region) -> Any:
    """The piece of an operand that meets a region of the result, where the operand is held whole.

    Dimensions that hold an axis in the result, but none in the operand, are cut here.
    """
    shift = len(result.dims) - len(axes.dims)
    dims, cut = [], False
    for number, factors in enumerate(axes.dims):
        there = result.dims[number + shift]
        loose = size_of(factors) > 1 and factors != there and bool(axes_in(there))
        dims.append(there if loose else dim(size_of(factors)))
        cut |= loose
    if not cut:
        return tensor
    # what the operand has in common with the result is cut already: its sizes are the tensor's own
    sizes = zip(dims, tensor.shape, strict=True)
    loose_axes = result.with_dims([d if axes_in(d) else dim(n) for d, n in sizes])
    whole = Region.whole(loose_axes.extent)
    spans = (
        s if k in loose_axes.present else w
        for k, (s, w) in enumerate(zip(region.spans, whole.spans, strict=True))
    )
    return loose_axes.piece(tensor, whole, Region(tuple(spans)))


def is_image(axes: Axes) -> bool:
    """Whether a value is a batch of images, or volumes: these lie with their channels last."""
    return len(axes.dims) in (4, 5) and axes.plain


def rows_beside(need: Region, own: Region, axes: Axes) -> bool:
    """Whether a need is what a tile owns with rows above and below it, in one run of memory.

    That is so for a single image with its channels last, if both have the same columns.
    """
    same = need.spans[0] == own.spans[0] and need.spans[2:] == own.spans[2:]
    return same and need.shape[0] == 1 and own in need and is_image(axes)
