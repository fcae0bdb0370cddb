"""Arrays of other libraries (h5py, dask, xarray, …), read by region."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ...ir.region import Region
from ..arrays import checked, floats, index_in
from ..layout import batched, stored_index

BAND_BYTES = 2**26
"""Bytes of a band that is copied at a time."""


def can_be_sliced(image: Any) -> bool:
    """Whether an object has a shape, a type of numbers, and gives slices of itself.

    >>> can_be_sliced(np.zeros(3)), can_be_sliced([1, 2])
    (True, False)
    """
    return all(hasattr(image, name) for name in ("shape", "dtype", "__getitem__"))


def chunk_of(array: Any, layout: str) -> tuple[int, int]:
    """Rows and columns of a chunk, if an array has chunks: see `spnb.io.strided.piece_of`."""
    chunks = getattr(array, "chunks", None)
    if not isinstance(chunks, tuple) or len(chunks) != len(layout):
        return 1, 0
    *_, rows, columns = (
        1,
        *(n for n, letter in zip(chunks, layout, strict=True) if letter == "S"),
    )
    # dask and xarray list the sizes of all chunks along an axis.
    longest = [n if isinstance(n, int) else max(n) for n in (rows, columns)]
    return longest[0], longest[1]


@dataclass(eq=False)
class SlicedSource:
    """An array that is read by slices, as a file is; `spnb.io.layout` has the layouts.

    >>> source = SlicedSource(np.zeros((1, 3, 64, 64), np.uint8))
    >>> source.read(Region(((0, 1), (2, 4), (0, 9)))).shape
    (1, 3, 2, 9)
    """

    array: Any = field(repr=False)
    name: str = ""
    layout: str = ""

    def __post_init__(self) -> None:
        self.name = self.name or type(self.array).__name__
        self.dtype = np.dtype(self.array.dtype)
        whole = np.broadcast_to(np.empty((), self.dtype), tuple(self.array.shape))  # no memory
        self.shape = checked(batched(whole, self.layout), self.name)
        self.layout = self.layout or "BC" + "S" * (len(self.shape) - 2)
        self.chunk_rows, self.chunk_columns = chunk_of(self.array, self.layout)

    def read(self, region: Region) -> np.ndarray:
        """Read a region; see `spnb.io.sources.Source`."""
        return self.read_as(region, np.float32)

    def read_as(self, region: Region, dtype: DTypeLike) -> np.ndarray:
        """Read a region in another type; see `spnb.io.sources.read_as`."""
        return floats(self._stored(region), dtype=dtype)

    def bands(self) -> Iterator[tuple[tuple[slice, ...], np.ndarray]]:
        """The whole array in bands of rows: where each lies, and its numbers as they are stored."""
        batch, channels, rows, *rest = self.shape
        row_bytes = channels * math.prod(rest) * self.dtype.itemsize
        step = max(1, BAND_BYTES // max(1, row_bytes))
        space = tuple((0, n) for n in rest)
        for image in range(batch):
            for start in range(0, rows, step):
                region = Region(((image, image + 1), (start, min(rows, start + step)), *space))
                yield index_in(self.shape, region), self._stored(region)

    def _stored(self, region: Region) -> np.ndarray:
        batch, _, *box = index_in(self.shape, region)
        values = np.asarray(self.array[stored_index(self.layout, batch, box)])
        found = batched(values, self.layout)
        return found if "B" in self.layout else found[batch]
