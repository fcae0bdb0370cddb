"""Image sources: small picklable objects that read *a region* of a batch, never the whole.

A source has the layout ``(batch, channels, *spatial)``.  Its pickle, a path or a seed, is sent to
the engines; each rank then reads its own tile directly from storage.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import DTypeLike

from ..ir.region import Region
from ..kernels.counter_rng import mixed
from .arrays import as_numpy, checked, empty_image, floats, index_in
from .disk.files import located, mapped, reading
from .layout import batched

BAND_BYTES = 2**21
"""Bytes of a mapped file that are read at a time."""


class NotGiven(Enum):
    """Stands for an argument that is left out, if None would be a mistake."""

    NOT_GIVEN = "not given"


NOT_GIVEN = NotGiven.NOT_GIVEN
"""Stands for an image that is left out: a synthetic one is used."""


def given(value: Any, what: str) -> bool:
    """Whether an argument is given.

    Raises
    ------
    ValueError
        If it is None: a variable that holds no image must not stand for a synthetic one.
    """
    if value is None:
        raise ValueError(
            f"{what} is None: give an array, a path, a sample or a source; leave it out for"
            " synthetic images"
        )
    return value is not NOT_GIVEN


@runtime_checkable
class Source(Protocol):
    """The source of an input of a plan.

    Attributes
    ----------
    shape
        ``(batch, channels, *spatial)``.
    name
        Its name, for pictures and messages.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Batch, channels and spatial size."""
        ...

    @property
    def name(self) -> str:
        """Name of the image."""
        ...

    def read(self, region: Region) -> np.ndarray:
        """Read a region over ``(batch, *spatial)`` as float32, all channels.

        A rank copies nothing of it if the channels are last in memory: `spnb.io.arrays`.
        """
        ...


def file_of(source: Source) -> str:
    """The file that a source reads, or was read from; empty for none.

    >>> file_of(SyntheticSource((1, 3, 8, 8)))
    ''
    """
    inner = getattr(source, "source", None)
    if inner is not None:
        return file_of(inner)
    return getattr(source, "origin", "") or getattr(source, "path", "")


def files_opened(source: Source) -> list[str]:
    """The files that a source opens when a region of it is read.

    >>> files_opened(SyntheticSource((1, 3, 8, 8))), files_opened(ArraySource(np.zeros((1, 1, 2))))
    ([], [])
    """
    inner = getattr(source, "source", None)
    if inner is not None:
        return files_opened(inner)
    if isinstance(source, ArraySource):
        return []
    path = getattr(source, "path", "")
    return [path] if path else [str(each) for each in getattr(source, "paths", ())]


def read_as(source: Source, region: Region, dtype: DTypeLike) -> np.ndarray:
    """Read a region in float32 or, for a network in double precision, in float64.

    A source whose values are exact in float32 has only `Source.read`.

    >>> source = ArraySource(np.full((1, 1, 1), 0.1))
    >>> read_as(source, Region.whole((1, 1)), np.float64).item()
    0.1
    """
    exactly = getattr(source, "read_as", None)
    if exactly is None:
        return source.read(region).astype(dtype, copy=False)
    return exactly(region, dtype)


@dataclass(eq=False)
class ArraySource:
    """A numpy array or torch tensor ``(batch, channels, *spatial)`` in memory.

    Unsigned integers are scaled to [0, 1] as they are read; all other numbers keep their value.

    >>> ArraySource(np.full((1, 1, 4), 255, np.uint8)).read(Region(((0, 1), (1, 3))))
    array([[[1., 1.]]], dtype=float32)
    """

    array: np.ndarray = field(repr=False)
    name: str = "array"
    path: str = ""  # of the file that it was decoded from, if any

    def __post_init__(self) -> None:
        self.array = as_numpy(self.array)
        self.shape, self.dtype = checked(self.array, self.name), self.array.dtype

    def read(self, region: Region) -> np.ndarray:
        """Read a region; see `Source`."""
        return self.read_as(region, np.float32)

    def read_as(self, region: Region, dtype: DTypeLike) -> np.ndarray:
        """Read a region in another type; see `spnb.io.sources.read_as`."""
        return floats(self.array[index_in(self.shape, region)], dtype=dtype)


@dataclass
class FileSource:
    """A ``.npy`` file, mapped for each read, so that only the region's pages are read.

    ``layout`` is the layout of its axes: see `spnb.io.layout`.  ``origin`` is the image file that
    this file was decoded from, if any.
    """

    path: str
    name: str = ""
    layout: str = ""
    origin: str = ""

    def __post_init__(self) -> None:
        self.path, self.name = located(self.path), self.name or Path(self.path).name
        array = self._array()
        self.shape, self.dtype = checked(array, self.name), array.dtype
        self._row_bytes = array.strides[2]

    def _array(self) -> np.ndarray:
        with reading(self.path):
            return batched(mapped(self.path, "r"), self.layout)

    def held(self) -> ArraySource:
        """The same image, which can still be read when the file is removed; it is only mapped."""
        return ArraySource(self._array(), self.name, self.origin)

    def read(self, region: Region) -> np.ndarray:
        """Read a region; see `Source`."""
        return self.read_as(region, np.float32)

    def read_as(self, region: Region, dtype: DTypeLike) -> np.ndarray:
        """Read a region in another type; see `spnb.io.sources.read_as`."""
        out = empty_image((region.shape[0], self.shape[1], *region.shape[1:]), dtype)
        start, stop = region.spans[1]
        row_bytes = max(self._row_bytes, out[:, :, :1].size * self.dtype.itemsize)
        step = max(1, BAND_BYTES // max(1, row_bytes))
        for first in range(start, stop, step):
            # Mapped for each band: pages that were read do not stay beside what is read.
            last = min(stop, first + step)
            band = self._array()[index_in(self.shape, region.along(1, (first, last)))]
            floats(band, dtype=dtype, out=out[:, :, first - start : last - start])
        return out


@dataclass(frozen=True)
class SyntheticSource:
    """Noise in [0, 1): each value is a hash of its position, so regions are computed separately.

    >>> SyntheticSource((1, 3, 65536, 65536)).read(Region(((0, 1), (65535, 65536), (7, 8)))).shape
    (1, 3, 1, 1)
    """

    shape: tuple[int, ...]
    seed: int = 0
    name: str = "synthetic"

    def read(self, region: Region) -> np.ndarray:
        """Read a region; see `Source`."""
        index = index_in(self.shape, region)
        axes = [
            np.arange(*s.indices(n), dtype=np.uint64)
            for s, n in zip(index, self.shape, strict=True)
        ]
        strides = [math.prod(self.shape[k + 1 :]) for k in range(len(self.shape))]
        # The offset is a hash of the seed, so that near seeds do not give shifted copies.
        rows = mixed(np.array([self.seed % 2**64], np.uint64))
        for axis, stride in zip(axes[:-1], strides, strict=False):
            rows = (rows[:, None] + axis * np.uint64(stride)).reshape(-1)
        out = empty_image(tuple(map(len, axes)), np.float32)
        if not out.size:
            return out
        rows = rows.reshape(*out.shape[:2], -1)
        step = max(1, 2**16 // max(1, len(axes[-1])))  # the hash's integers then stay in cache
        for plane in np.ndindex(*out.shape[:2]):
            numbers, lines = rows[plane], out[plane].reshape(rows.shape[2], -1)
            for k in range(0, len(numbers), step):
                # A float32 has 24 bits of precision, so rounding never gives 1.0.
                bits = mixed(numbers[k : k + step, None] + axes[-1]) >> np.uint64(40)
                np.multiply(bits, np.float32(2**-24), out=lines[k : k + step], casting="same_kind")
        return out


@dataclass
class Repeated:
    """One image as a batch of equal images, one grey channel as several; no copy is stored."""

    source: Source
    batch: int
    channels: int

    def __post_init__(self) -> None:
        self.shape = (self.batch, self.channels, *self.source.shape[2:])
        self.name = self.source.name

    def read(self, region: Region) -> np.ndarray:
        """Read a region; see `Source`."""
        return self.read_as(region, np.float32)

    def read_as(self, region: Region, dtype: DTypeLike) -> np.ndarray:
        """Read a region in another type; see `spnb.io.sources.read_as`."""
        index_in(self.shape, region)
        one = Region(((0, 1), *region.spans[1:])) if self.source.shape[0] == 1 else region
        values = read_as(self.source, one, dtype)
        shape = (region.shape[0], self.channels, *region.shape[1:])
        if values.shape == shape:
            return values
        out = empty_image(shape, dtype)
        out[...] = values
        return out


@dataclass(eq=False)
class RowSource:
    """Numbers without spatial axes, given besides an image; for instance a row for each image."""

    array: np.ndarray
    name: str = "numbers"

    def __post_init__(self) -> None:
        self.shape = self.array.shape

    @classmethod
    def of(cls, given: Any, shape: tuple[int, ...], seed: int) -> RowSource:
        """Return a source of an array or tensor of a shape; of noise if none is given.

        Raises
        ------
        ValueError
            If it has another shape.
        """
        if isinstance(given, RowSource):
            given = given.array
        if given is NOT_GIVEN:
            array = np.random.default_rng(seed).random(shape, np.float32)
        else:
            array = np.asarray(as_numpy(given), np.float64)
        if array.shape != tuple(shape):
            raise ValueError(f"an input is of shape {array.shape}, but {tuple(shape)} is planned")
        return cls(array)

    def read(self, region: Region) -> np.ndarray:
        """Return the rows of a region's images; a number for the whole batch is returned whole."""
        start, stop = region.spans[0]
        return self.array[start:stop] if self.shape else self.array


@dataclass
class HeldSource:
    """A region of another source, read beforehand for a rank that cannot reach its file."""

    shape: tuple[int, ...]
    name: str
    region: Region
    values: np.ndarray

    @classmethod
    def of(
        cls, source: Source, region: Region, dtype: DTypeLike = np.float32
    ) -> HeldSource | RowSource:
        """Read a region of all images of the batch now."""
        if isinstance(source, RowSource):
            return source
        region = Region(((0, source.shape[0]), *region.spans[1:]))
        return cls(source.shape, source.name, region, read_as(source, region, dtype))

    def read(self, region: Region) -> np.ndarray:
        """Read a region; see `Source`."""
        return self.read_as(region, np.float32)

    def read_as(self, region: Region, dtype: DTypeLike) -> np.ndarray:
        """Read a region in another type; see `spnb.io.sources.read_as`."""
        batch, *box = region.slices_in(self.region)
        return np.array(self.values[(batch, slice(None), *box)], dtype)
