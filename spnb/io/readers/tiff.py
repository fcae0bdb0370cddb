"""A level of a TIFF's first series, read by region: only its tiles or strips are decoded."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import DTypeLike

from ...ir.region import Region
from ..arrays import checked, floats, index_in
from ..disk.files import NOT_DAMAGED, NotByRegion, located, reading, refuse_without_memory
from ..layout import batched, named_layout, stored_index
from .tiff_pages import (
    JPEG,
    Outer,
    axes_and_shape,
    decode,
    first_series,
    opened_tiff,
    refuse_missing_parts,
)

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage, TiffPageSeries

MARKS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""The first bytes of a TIFF, and of a BigTIFF; slides of most makers are TIFFs, too."""

NODATA = 42113
"""Code of GDAL's tag with the number for nodata."""

MASK, NUMBERS = {"values": "bool"}, {"values": "integers"}
"""The descriptions that `spnb.io.writing.writers` gives a file of booleans, and one of integers
that are stored without a sign: such as classes, which are not scaled to [0, 1]."""


@dataclass
class TiffSource:
    """The first series of a TIFF: mapped if possible, else decoded tile by tile.

    A series is one page, or the pages of a stack; `tifffile.imread` reads the same.  Its axes
    become batch, channels and space by `spnb.io.layout.named_layout`.  A file that spnb or
    ``tifffile.imwrite`` wrote with an axis for each of ``(batch, channels, *spatial)`` is read in
    that order.  Grey pages (white or black may be 0), RGB, palettes, and pages of many channels are
    read, chunky or planar.  An alpha is dropped unless the channels wanted include it.

    Attributes
    ----------
    path, name
        The file, and its name for pictures and messages.
    channels
        Number of channels wanted; by default that of the file.
    size
        Spatial size wanted, if any.
    space
        Number of spatial axes, 2 or 3.
    level
        Number of the level of a pyramid; 0 has the full size.
    shape
        ``(batch, channels, *spatial)``.
    chunk_rows, chunk_columns, piece_bytes
        Rows, columns and bytes of a tile or strip, which is decoded at once; 1, 0 and 0 for a
        mapped file.
    """

    path: str
    name: str = ""
    channels: int | None = None
    size: tuple[int, ...] | None = None
    space: int = 2
    level: int = 0
    layout: str = field(default="", init=False)

    def __post_init__(self) -> None:
        self.path, self.name = located(self.path), self.name or Path(self.path).name
        with reading(self.path), opened_tiff(self.path) as tif:
            series = first_series(tif, self.level)
            self._take_colours(series.keyframe, series.dtype.kind)
            self._take_storage(tif, series)
            self._take_axes(series)
            if self.size in (None, self.shape[2:]):  # another size is refused without a decoding
                self._try_to_decode(tif, series)

    def _take_storage(self, tif: TiffFile, series: TiffPageSeries) -> None:
        """Find the storage of the samples; raise if they cannot be read."""
        page = series.keyframe
        described = (tif.shaped_metadata or ({},))[0].items()
        self.mask, self.numbers = (described >= each.items() for each in (MASK, NUMBERS))
        self.nodata = _nodata(page)
        self.axes, self.stored = axes_and_shape(series)
        self.dtype = np.dtype(tif.byteorder + series.dtype.char)
        self.offset, self.piece_bytes = series.dataoffset, 0
        self.chunk_rows, self.chunk_columns = 1, 0
        if self.offset is None:
            self.chunk_rows, self.chunk_columns = page.rowsperstrip, page.imagewidth
            if page.is_tiled:
                self.chunk_rows, self.chunk_columns = page.tilelength, page.tilewidth
            self.piece_bytes = math.prod(page.chunks) * self.dtype.itemsize
            return
        end = self.offset + math.prod(self.stored) * self.dtype.itemsize
        if end > Path(self.path).stat().st_size:
            raise ValueError(f"it ends before the last of its samples {self.stored}")

    def _try_to_decode(self, tif: TiffFile, series: TiffPageSeries) -> None:
        """Refuse a file of which parts are missing, or whose first tile cannot be decoded."""
        if self.offset is not None:
            return
        refuse_missing_parts(series, tif.filehandle.size)
        way_out = NOT_DAMAGED + "write smaller ones"
        refuse_without_memory(self.piece_bytes, "its tiles or strips", way_out)
        first = series[0]
        assert first is not None, "a series with missing pages is refused"
        try:  # a codec may be missing
            decode(first, Outer(0, 0, 0), Region(((0, 1), (0, 1))))
        except Exception as error:
            raise NotByRegion(str(error)) from error

    def _take_colours(self, page: TiffPage, element: str) -> None:
        """Find the meaning of a pixel's samples.

        Raises
        ------
        NotByRegion
            For other colours than grey, RGB and a palette.
        """
        from tifffile import PHOTOMETRIC

        kind = page.photometric
        # The decoder of a JPEG returns YCbCr as RGB.
        jpeg = kind == PHOTOMETRIC.YCBCR and page.compression in JPEG
        grey = kind in (None, PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE)
        self.palette = page.colormap if kind == PHOTOMETRIC.PALETTE else None
        if not (grey or jpeg or kind == PHOTOMETRIC.RGB or self.palette is not None):
            raise NotByRegion(f"colours of {kind!s} are not read by region")
        self.inverted = kind == PHOTOMETRIC.MINISWHITE
        if self.inverted and element not in "bu":
            raise ValueError("its white is 0, which has no meaning for signed samples")
        samples = page.samplesperpixel
        alpha = sum(extra in (1, 2) for extra in page.extrasamples)
        coloured = kind in (PHOTOMETRIC.RGB, PHOTOMETRIC.PALETTE) or jpeg
        self.samples = 3 if coloured else samples - alpha
        if self.palette is not None and (samples != 1 or element != "u"):
            raise NotByRegion("a palette with further samples is not read by region")
        if self.palette is None and samples == self.channels:
            self.samples = samples
        self.bits = page.bitspersample

    def _take_axes(self, series: TiffPageSeries) -> None:
        """Find which axis of the series is the batch, the channels, or one of space."""
        stored = self.stored
        unnamed = series.kind == "shaped" and self.axes.strip("Q") == "YX"
        if unnamed and len(stored) == self.space + 2:
            self.layout = "BC" + "S" * self.space
        else:
            space = max(2, self.space)
            self.layout = named_layout(
                self.axes, stored, self.channels, self.size, space, self.name
            )
        if self.palette is not None:
            if "C" in self.layout:
                raise NotByRegion(f"{self.name} has further channels beside its palette")
            stored = (*stored, self.samples)
        shape = batched(np.broadcast_to(np.zeros((), series.dtype), stored), self._taken).shape
        if "S" in self.axes and self.stored[self.axes.index("S")] > 1:
            shape = (shape[0], self.samples, *shape[2:])
        self.shape = checked(np.broadcast_to(np.zeros((), series.dtype), shape), self.name)

    @property
    def _taken(self) -> str:
        """The layout after colours of a palette are looked up."""
        return self.layout if self.palette is None else self.layout + "C"

    def read(self, region: Region) -> np.ndarray:
        """Read a region; see `Source`."""
        return self.read_as(region, np.float32)

    def read_as(self, region: Region, dtype: DTypeLike) -> np.ndarray:
        """Read a region in another type; see `spnb.io.sources.read_as`."""
        batch, channels, *box = index_in(self.shape, region)
        index = stored_index(self.layout, batch, box)
        with reading(self.path):
            if self.offset is None:
                values = self._decoded(index)
            else:
                values = np.memmap(self.path, self.dtype, "r", self.offset, self.stored)[index]
        values, largest = self.in_colours(values)
        values = batched(values, self._taken)[:, channels]
        return floats(values if "B" in self.layout else values[batch], largest, dtype)

    def _decoded(self, index: tuple[slice, ...]) -> np.ndarray:
        """Return a part of the series, decoded plane by plane."""
        spans = [s.indices(n)[:2] for s, n in zip(index, self.stored, strict=True)]
        rows = self.axes.index("Y")
        outer, need = [range(*span) for span in spans[:rows]], Region(tuple(spans[rows : rows + 2]))
        with opened_tiff(self.path) as tif:
            series = first_series(tif, self.level)
            samples = series.keyframe.shaped[4]
            out = np.empty((*map(len, outer), *need.shape, samples), series.dtype)
            for place in np.ndindex(*map(len, outer)):
                at = [each[k] for each, k in zip(outer, place, strict=True)]
                where = Outer.of(at, self.stored[:rows], series.keyframe)
                page = series[where.page]
                assert page is not None, "a series with missing pages is refused"
                out[place] = decode(page, where, need)
        return out if self.axes.endswith("S") else out[..., 0]

    def in_colours(self, values: np.ndarray) -> tuple[np.ndarray, int | None]:
        """Return samples as colours, and the number of the brightest one, if it is known.

        Parameters
        ----------
        values
            Samples as they are stored.
        """
        if self.mask:
            return values.astype(bool), None
        if self.numbers:
            return values.astype(np.int32), None
        if self.palette is not None:
            return np.moveaxis(self.palette[:, values], 0, -1), None
        if values.dtype.kind != "u":
            return (~values if self.inverted else values), None
        largest = (1 << self.bits) - 1
        return (largest - values if self.inverted else values), largest


def _nodata(page: TiffPage) -> float | None:
    """The number for nodata that GDAL's tag names, if there is one."""
    text = page.tags.valueof(NODATA)
    try:
        return None if text is None else float(str(text).strip("\0 "))
    except ValueError:
        return None
