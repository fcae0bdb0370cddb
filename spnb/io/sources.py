"""Image sources: small picklable objects that read *a region* of a batch, never the whole.

A source has the layout ``(batch, channels, *spatial)``.  What crosses the wire to an engine is its
pickle, a path or a seed; each rank then reads its own tile straight from storage.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ..ir.region import Region
from ..kernels.counter_rng import mixed


@runtime_checkable
class Source(Protocol):
    """What a plan reads its input from."""

    shape: tuple[int, ...]
    name: str

    def read(self, region: Region) -> np.ndarray:
        """Read a region over ``(batch, *spatial)`` as contiguous float32, all channels."""
        ...


@dataclass(eq=False)
class ArraySource:
    """A numpy array or torch tensor ``(batch, channels, *spatial)`` in memory.

    Unsigned integers are scaled to [0, 1] as they are read; all other numbers keep their value.

    >>> ArraySource(np.full((1, 1, 4), 255, np.uint8)).read(Region(((0, 1), (1, 3))))
    array([[[1., 1.]]], dtype=float32)
    """

    array: np.ndarray = field(repr=False)
    name: str = "array"

    def __post_init__(self) -> None:
        self.array = as_numpy(self.array)
        self.shape = checked(self.array, self.name)

    def read(self, region: Region) -> np.ndarray:
        """Read a region; see `Source`."""
        return floats(self.array[index_in(self.shape, region)])


@dataclass
class FileSource:
    """A ``.npy`` file, mapped for each read so that only the pages of the region are touched.

    ``layout`` tells how its axes lie: ``BCS`` (batch, channels, *spatial), ``CS``, ``SC``, ``SCA``
    (colours, then an alpha that is dropped) or ``S``.
    """

    path: str
    name: str = ""
    layout: str = "BCS"

    def __post_init__(self) -> None:
        self.path, self.name = located(self.path), self.name or Path(self.path).name
        self.shape = checked(self._array(), self.name)

    def _array(self) -> np.ndarray:
        with reading(self.path):
            return batched(mapped(self.path, "r"), self.layout)

    def read(self, region: Region) -> np.ndarray:
        """Read a region; see `Source`."""
        return floats(self._array()[index_in(self.shape, region)])


_parsing = threading.Lock()


def mapped(path: str | Path, mode: str) -> np.ndarray:
    """A ``.npy`` file as an array that lies there; ranks may be threads, and open it at once.

    NumPy parses the header with Python's own parser, which Python 3.11 cannot do in two threads at
    a time ("AST constructor recursion depth mismatch").
    """
    with _parsing:
        return np.lib.format.open_memmap(path, mode)


@dataclass(frozen=True)
class SyntheticSource:
    """Noise in [0, 1), each value a hash of its position: any region costs only its own size.

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
        # offset by a hash of the seed: neighbouring seeds must not give shifted copies of one noise
        rows = mixed(np.array([self.seed % 2**64], np.uint64))
        for axis, stride in zip(axes[:-1], strides, strict=False):
            rows = (rows[:, None] + axis * np.uint64(stride)).reshape(-1)
        out = np.empty((len(rows), len(axes[-1])), np.float32)
        step = max(1, 2**16 // max(1, len(axes[-1])))  # the hash's integers stay in cache
        for k in range(0, len(rows), step):
            # 24 bits are what a float32 holds: so 1.0 is never reached
            bits = mixed(rows[k : k + step, None] + axes[-1]) >> np.uint64(40)
            np.multiply(bits, np.float32(2**-24), out=out[k : k + step], casting="same_kind")
        return out.reshape(tuple(map(len, axes)))


@dataclass
class Repeated:
    """One image as a batch of equal ones, one grey channel as several: never stored so."""

    source: Source
    batch: int
    channels: int

    def __post_init__(self) -> None:
        self.shape = (self.batch, self.channels, *self.source.shape[2:])
        self.name = self.source.name

    def read(self, region: Region) -> np.ndarray:
        """Read a region; see `Source`."""
        index_in(self.shape, region)
        if self.source.shape[0] == 1:
            one = self.source.read(Region(((0, 1), *region.spans[1:])))
        else:
            one = self.source.read(region)
        return np.ascontiguousarray(
            np.broadcast_to(one, (region.shape[0], self.channels, *region.shape[1:]))
        )


@dataclass(eq=False)
class RowSource:
    """Numbers beside an image, of no space of their own: a row, say, for each image of a batch."""

    array: np.ndarray
    name: str = "numbers"

    def __post_init__(self) -> None:
        self.shape = self.array.shape

    @classmethod
    def of(cls, given: Any, shape: tuple[int, ...], seed: int) -> RowSource:
        """From an array or tensor of this shape; noise for None.

        Raises
        ------
        ValueError
            If it has another shape.
        """
        if isinstance(given, RowSource):
            given = given.array
        if given is None:
            array = np.random.default_rng(seed).random(shape, np.float32)
        else:
            array = np.asarray(as_numpy(given), np.float32)
        if array.shape != tuple(shape):
            raise ValueError(f"an input is of shape {array.shape}, but {tuple(shape)} is planned")
        return cls(array)

    def read(self, region: Region) -> np.ndarray:
        """The rows of a region's images; all where there is one for the whole batch."""
        start, stop = region.spans[0]
        return self.array[start:stop] if self.shape else self.array


@dataclass
class HeldSource:
    """A region of another source, for a rank that cannot read where that one lies."""

    shape: tuple[int, ...]
    name: str
    region: Region
    values: np.ndarray

    @classmethod
    def of(cls, source: Source, region: Region) -> HeldSource | RowSource:
        """Read a region now, for later; of all images of the batch."""
        if isinstance(source, RowSource):
            return source
        region = Region(((0, source.shape[0]), *region.spans[1:]))
        return cls(source.shape, source.name, region, source.read(region))

    def read(self, region: Region) -> np.ndarray:
        """Read a region; see `Source`."""
        batch, *box = region.slices_in(self.region)
        return np.ascontiguousarray(self.values[(batch, slice(None), *box)])


def index_in(shape: tuple[int, ...], region: Region) -> tuple[slice, ...]:
    """Where a region over ``(batch, *spatial)`` lies in an array of a source's shape."""
    batch, *box = region.slices_in(Region.whole((shape[0], *shape[2:])))
    return (batch, slice(0, shape[1]), *box)


def floats(values: np.ndarray) -> np.ndarray:
    """A contiguous float32 copy; unsigned integers scaled to [0, 1]."""
    out = np.array(values, np.float32, order="C")
    if values.dtype.kind == "u":
        out /= np.float32(np.iinfo(values.dtype).max)
    return out


def checked(array: np.ndarray, name: str) -> tuple[int, ...]:
    """The shape of an array that can be a batch of images."""
    if array.dtype.kind not in "buif":
        raise ValueError(f"{name} is of type {array.dtype}: an image holds real numbers")
    if not 3 <= array.ndim <= 5:
        raise ValueError(f"{name} has shape {array.shape}, not (batch, channels, 1 to 3 spatial)")
    if 0 in array.shape:
        raise ValueError(f"{name} is empty: its shape is {array.shape}")
    return array.shape


def batched(array: np.ndarray, layout: str) -> np.ndarray:
    """An array as ``(batch, channels, *spatial)``: see `FileSource` for the layouts."""
    if layout == "SCA":
        array = array[..., :-1]
    if layout.startswith("SC"):
        array = np.moveaxis(array, -1, 0)
    return array[{"BCS": (), "S": (None, None)}.get(layout)]


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turn whatever goes wrong with a file into one line that names it."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"cannot read {path}: {reason}") from error


def located(path: str | Path) -> str:
    """The absolute path of a file: an engine may run in another folder."""
    file = Path(path).expanduser().absolute()
    if file.is_dir():
        raise ValueError(f"{path} is a folder: name one image file")
    if not file.exists():
        raise FileNotFoundError(f"there is no image file {path}")
    return str(file)


def as_numpy(image: Any) -> np.ndarray:
    """An array or torch tensor as a numpy array."""
    if hasattr(image, "detach"):
        image = image.detach().cpu()
        image = (image.float() if "bfloat16" in str(image.dtype) else image).numpy()
    if not isinstance(image, np.ndarray):
        raise ValueError(f"cannot open a {type(image).__name__}: give an array, a path or a sample")
    return image
