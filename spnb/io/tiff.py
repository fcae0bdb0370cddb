"""The first page of a TIFF, read by region: only the tiles or strips of a region are decoded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..ir.region import Region
from .arrays import checked, floats, index_in
from .files import located, reading

if TYPE_CHECKING:
    from tifffile import TiffPage


@dataclass
class TiffSource:
    """The first page of a TIFF: mapped or, if it is compressed, decoded tile by tile.

    Grey, RGB (an alpha is dropped) and multi-channel pages, chunky or planar.  Other colour models,
    and codecs that tifffile lacks here, are refused; `open_source` lets Pillow decode those files
    whole.
    """

    path: str
    name: str = ""

    def __post_init__(self) -> None:
        from tifffile import COMPRESSION, PHOTOMETRIC, TiffFile

        self.path, self.name = located(self.path), self.name or Path(self.path).name
        with reading(self.path), TiffFile(self.path) as tif:
            page = tif.pages.first
            kind, depth = page.photometric, page.shaped[1]
            # The decoder of a JPEG returns YCbCr as RGB.
            rgb = kind == PHOTOMETRIC.RGB
            rgb = rgb or (kind == PHOTOMETRIC.YCBCR and page.compression == COMPRESSION.JPEG)
            if not (rgb or kind in (None, PHOTOMETRIC.MINISBLACK)) or depth != 1:
                raise ValueError(f"a page of {kind!s}, depth {depth}, is not read by region")
            alpha = sum(extra in (1, 2) for extra in page.extrasamples)
            channels = 3 if rgb else page.samplesperpixel - alpha
            self.shape = (1, channels, page.imagelength, page.imagewidth)
            checked(np.broadcast_to(np.zeros((), page.dtype), self.shape), self.name)
            more = len(tif.pages) > 1 and tif.pages[1].shape == page.shape  # not a pyramid
            self.pages = len(tif.pages) if more else 1
            self.chunk_rows = 1
            if not page.is_memmappable:
                self.chunk_rows = page.tilelength if page.is_tiled else page.rowsperstrip
                _decode(page, Region(((0, 1), (0, 1))))  # fails here if a codec is missing

    def read(self, region: Region) -> np.ndarray:
        """Read a region; see `Source`."""
        from tifffile import TiffFile, memmap

        batch, _, *box = index_in(self.shape, region)
        with reading(self.path), TiffFile(self.path) as tif:
            page = tif.pages.first
            if page.is_memmappable:
                mapped = memmap(self.path, page=0, mode="r")
                values = mapped.reshape(page.shaped)[:, 0, box[0], box[1]]
            else:
                values = _decode(page, Region(region.spans[1:]))
        planes = np.moveaxis(values, 3, 1)  # of samples per plane and samples per pixel, one is 1
        planes = planes.reshape(-1 if planes.size else self.shape[1], *values.shape[1:3])
        return floats(planes[None, : self.shape[1]][batch])


def _decode(page: TiffPage, need: Region) -> np.ndarray:
    """Decode the tiles or strips of a TIFF page that a region over ``(rows, columns)`` overlaps."""
    planes, _, height, width, samples = page.shaped
    tile = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, width)
    down, across = math.ceil(height / tile[0]), math.ceil(width / tile[1])
    out = np.zeros((planes, *need.shape, samples), page.dtype)
    touched = [range(a // n, math.ceil(b / n)) for (a, b), n in zip(need.spans, tile, strict=True)]
    for plane, row, column in product(range(planes), *touched):
        index = (plane * down + row) * across + column
        if not page.databytecounts[index]:
            continue  # a sparse file has no bytes of blank tiles
        page.parent.filehandle.seek(page.dataoffsets[index])
        data = page.parent.filehandle.read(page.databytecounts[index])
        samples_of_tile = page.decode(data, index, jpegtables=page.jpegtables)[0]
        assert samples_of_tile is not None, "tifffile decodes all data but None"
        values = samples_of_tile[0]
        y, x = row * tile[0], column * tile[1]
        has = Region(((y, y + values.shape[0]), (x, x + values.shape[1])))
        part = has & need
        out[plane][part.slices_in(need)] = values[part.slices_in(has)]
    return out
