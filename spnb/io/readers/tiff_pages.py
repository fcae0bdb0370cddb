"""The pages of a TIFF's first series, decoded tile by tile or strip by strip."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from ...ir.region import Region
from ..disk.files import reading
from .slides import require_level

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffFrame, TiffPage, TiffPageSeries

JPEG = (6, 7, 34892, 33007)
"""Codes of JPEG among TIFF's compressions; tiles of such a file share tables."""


@contextmanager
def opened_tiff(path: str) -> Iterator[TiffFile]:
    """Open a TIFF; tifffile logs nothing, since what is wrong is said in one line."""
    from tifffile import TiffFile

    log = logging.getLogger("tifffile")
    before = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        with TiffFile(path) as tif:
            yield tif
    finally:
        log.setLevel(before)


def has_overlaps(path: str) -> bool:
    """Whether tiles of a TIFF overlap, as those of Ventana's slides: their pages are no images."""
    with reading(path), opened_tiff(path) as tif:
        return bool(tif.is_bif)


def first_series(tif: TiffFile, level: int = 0) -> TiffPageSeries:
    """Return a level of the series of pages that `tifffile.imread` reads; 0 has the full size.

    Raises
    ------
    ValueError
        If there is no such level, or if pages of it are missing, lie in another file, or are
        reduced copies of an image.
    """
    if not tif.series:
        raise ValueError("there is no image in it")
    levels = _levels(tif)
    require_level(tif.filename, len(levels), level)
    series = levels[level]
    page = series.keyframe
    if page.is_reduced and not level:
        raise ValueError("its first image is a reduced copy of another one")
    if series.transform is not None:
        raise ValueError(f"its pages are put together in a way that {series.kind} files have")
    axes, shape = axes_and_shape(series)
    if not axes.endswith(("YX", "YXS")):
        raise ValueError(f"its axes {axes} do not end with rows and columns")
    if series.dataoffset is None:
        pages = list(series)
        if any(page is None or page.parent is not tif for page in pages):
            raise ValueError("pages of it are missing, or in another file")
        held = sum(page.size for page in pages if page is not None)
        if held != math.prod(shape):
            raise ValueError(f"it has {held} samples, but its description {tuple(shape)} has more")
    return series


def axes_and_shape(series: Any) -> tuple[str, tuple[int, ...]]:
    """The letters of a series' axes and their lengths, those of length 1 among them.

    Parameters
    ----------
    series
        As `first_series` returns it.
    """
    if hasattr(series, "get_axes"):  # before tifffile 2026.5.2
        return series.get_axes(squeeze=False), tuple(series.get_shape(squeeze=False))
    return series.axes, tuple(series.shape)


def _levels(tif: TiffFile) -> Sequence[TiffPageSeries]:
    """The levels of the first series.

    A slide of Aperio has its levels in the pages with tiles, as OpenSlide counts them; tifffile
    takes its second page for a thumbnail, with tiles or not.
    """
    from tifffile import TiffPage, TiffPageSeries

    # From tifffile 2026.5.2 on, the list of series is asked for axes of length 1, not a series.
    every: Any = tif.series
    first: TiffPageSeries = (every(squeeze=False) if callable(every) else every)[0]
    if not tif.is_svs:
        return first.levels
    pages = [page for page in tif.pages[1:] if isinstance(page, TiffPage) and page.is_tiled]
    alike = (page for page in pages if page.dtype is not None)
    return [
        first.levels[0],
        *(TiffPageSeries([p], p.shape, p.dtype, p.axes, kind="svs") for p in alike),
    ]


def refuse_missing_parts(series: TiffPageSeries, size: int) -> None:
    """Refuse a series with tiles or strips that lie outside of its file, or that have no place.

    Parameters
    ----------
    series
        Pages that are not mapped.
    size
        Bytes of the file.

    Raises
    ------
    ValueError
        Naming the page.
    """
    frame = series.keyframe
    planes, depths, height, width, _ = frame.shaped
    rows, columns, deep = frame.rowsperstrip, width, 1
    if frame.is_tiled:
        rows, columns, deep = frame.tilelength, frame.tilewidth, frame.tiledepth
    pieces = ((depths, deep), (height, rows), (width, columns))
    parts = planes * math.prod(math.ceil(n / each) for n, each in pieces)
    for number, page in enumerate(series):
        assert page is not None, "a series with missing pages is refused"
        places = list(zip(page.dataoffsets, page.databytecounts, strict=False))
        if len(places) < parts or any(count and at + count > size for at, count in places):
            raise ValueError(f"tiles or strips of its page {number} are missing: it is truncated")


@dataclass(frozen=True)
class Outer:
    """The place of a plane of samples in a series: page, separate sample and depth."""

    page: int
    plane: int
    depth: int

    @classmethod
    def of(cls, index: Sequence[int], shape: Sequence[int], page: TiffPage) -> Outer:
        """Return the place of an index over the axes of a series before its rows."""
        planes, depths = page.shaped[:2]
        flat = int(np.ravel_multi_index(tuple(index), tuple(shape))) if shape else 0
        number, within = divmod(flat, planes * depths)
        return cls(number, *divmod(within, depths))


def decode(page: TiffPage | TiffFrame, where: Outer, need: Region) -> np.ndarray:
    """Decode a region over ``(rows, columns)`` of one plane.

    One tile or strip is decoded at a time.

    Returns
    -------
    numpy.ndarray
        ``(rows, columns, samples)`` of the region, in the file's type.
    """
    frame = page.keyframe
    assert frame is not None, "a page of a series has a page with its tags"
    _, _, height, width, samples = frame.shaped
    out = np.full((*need.shape, samples), frame.nodata, frame.dtype)
    tables = {}
    if frame.compression in JPEG:
        tables = {"jpegtables": page.jpegtables, "jpegheader": frame.jpegheader}
    for index, deep, (y, x) in _segments(frame, where, need):
        if not page.databytecounts[index]:
            continue  # a sparse file has no bytes of blank tiles
        page.parent.filehandle.seek(page.dataoffsets[index])
        data = page.parent.filehandle.read(page.databytecounts[index])
        samples_of_tile = frame.decode(data, index, **tables)[0]
        assert samples_of_tile is not None, "tifffile decodes all data but None"
        values = samples_of_tile[deep]
        has = Region(((y, y + values.shape[0]), (x, x + values.shape[1])))
        part = has & need & Region.whole((height, width))
        out[part.slices_in(need)] = values[part.slices_in(has)]
    return out


def _segments(
    frame: TiffPage, where: Outer, need: Region
) -> Iterator[tuple[int, int, tuple[int, int]]]:
    """Yield, for each tile or strip that overlaps a region, its number, its depth and corner."""
    _, depths, height, width, _ = frame.shaped
    tile, deep = (frame.rowsperstrip, width), 1
    if frame.is_tiled:
        tile, deep = (frame.tilelength, frame.tilewidth), frame.tiledepth
    down, across = math.ceil(height / tile[0]), math.ceil(width / tile[1])
    first = (where.plane * math.ceil(depths / deep) + where.depth // deep) * down
    touched = [range(a // n, math.ceil(b / n)) for (a, b), n in zip(need.spans, tile, strict=True)]
    for row, column in product(*touched):
        corner = (row * tile[0], column * tile[1])
        yield (first + row) * across + column, where.depth % deep, corner
