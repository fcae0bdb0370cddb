"""Images with a number that stands for nodata: it is read as NaN.

In unsigned integers, which are colours, a position is nodata where all channels have the number: 0
is black elsewhere.  In all other types each channel may lack data by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..ir.region import Region
from .arrays import floats
from .changed import Changed, changed_as
from .readers.tiff import TiffSource
from .sources import Repeated, Source, read_as


@dataclass(frozen=True, eq=False)
class Masked(Changed):
    """Images in which a number is read as NaN.

    Attributes
    ----------
    numbers
        The number as the source reads it in float32, and in float64.
    of_all_channels
        Whether all channels of a position must have it.

    Examples
    --------
    >>> from spnb.io.sources import ArraySource
    >>> image = masked(ArraySource(np.array([[[3.0, -9999.0]]])), -9999)
    >>> image.read(Region(((0, 1), (0, 2))))
    array([[[ 3., nan]]], dtype=float32)
    """

    numbers: tuple[float, float]
    of_all_channels: bool

    def read_as(self, region: Region, dtype: DTypeLike) -> np.ndarray:
        values = read_as(self.source, region, dtype)
        number = self.numbers[np.dtype(dtype) == np.float64]
        missing = values == values.dtype.type(number)
        if self.of_all_channels:
            missing = missing.all(axis=1, keepdims=True)
        return np.where(missing, values.dtype.type(np.nan), values)


def masked(source: Source, number: float) -> Source:
    """Return images in which a number stands for nodata.

    Parameters
    ----------
    source
        The images, not changed yet.
    number
        The number as it is stored.

    Raises
    ------
    ValueError
        If the images hold no such number.
    """
    if np.isnan(number):
        return source  # it is NaN already
    stored: np.dtype = getattr(unrepeated(source), "dtype", np.dtype(float))
    return Masked(source, numbers_read(source, number, "nodata"), stored.kind in "bu")


def numbers_read(source: Source, number: float, what: str) -> tuple[float, float]:
    """What images hold where they store a number: as it is read in float32, and in float64.

    Parameters
    ----------
    source
        The images, not changed yet.
    number
        The number.
    what
        What it is, for errors.

    Raises
    ------
    ValueError
        If the images hold no such number.
    """
    inner = unrepeated(source)
    stored: Any = getattr(inner, "dtype", None)
    if stored is None:
        raise ValueError(
            f"{what} is {number:g}, but {source.name} is no array and no file of numbers: leave it"
            " out"
        )
    if not _holds(stored, number):
        low, high = (0, 1) if stored.kind == "b" else (np.iinfo(stored).min, np.iinfo(stored).max)
        raise ValueError(
            f"{what} is {number:g}, but {source.name} holds whole numbers from {low} to {high}:"
            " give one of them, or None"
        )
    one, largest = np.array([number]).astype(stored), None
    if isinstance(inner, TiffSource):
        one, largest = inner.in_colours(one)
    single, double = (floats(one, largest, dtype).reshape(-1) for dtype in (np.float32, np.float64))
    if len(single) > 1:
        raise ValueError(
            f"{source.name} has a palette, which has colours and no {what}: leave it out"
        )
    return float(single[0]), float(double[0])


def unrepeated(source: Source) -> Source:
    """The images of which others are repetitions."""
    return source.source if isinstance(source, Repeated) else source


def _holds(stored: np.dtype, number: float) -> bool:
    """Whether a type has a number."""
    if stored.kind == "b":
        return number in (0, 1)
    if stored.kind not in "ui":
        return True
    kind = np.iinfo(stored)
    return float(number).is_integer() and kind.min <= number <= kind.max


def nodata_of(source: Source) -> float | None:
    """The number that a file names for nodata, if it holds that number; None otherwise.

    An image that is changed already has none: what was to be masked is masked.
    """
    inner = unrepeated(source)
    if not isinstance(inner, TiffSource) or inner.nodata is None or inner.palette is not None:
        return None
    known = not np.isnan(inner.nodata) and _holds(inner.dtype, inner.nodata)
    return inner.nodata if known else None


def mask_of(source: Source) -> Masked | None:
    """The masked images that a source reads, if there are any."""
    return changed_as(source, Masked)
