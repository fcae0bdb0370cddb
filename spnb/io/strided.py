"""Every n-th pixel of a part of a source, read piece by piece: the part is never held whole."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, product
from typing import Any

import numpy as np

from ..ir.region import Region, Span, length
from .sources import Source

ALL = 2**62
"""The side of a piece that is as long as any image."""

SIDE = 1024
"""Pixels along a side of what is read at once, where the source's own pieces are smaller."""


@dataclass(frozen=True)
class Strided:
    """Every n-th pixel of a part of an image.

    Attributes
    ----------
    pixels
        ``(channels, rows, columns)`` in float32.
    exact
        False if some pixels stand for their neighbours, since only some pieces were read.
    """

    pixels: np.ndarray
    exact: bool


def strided(
    source: Source,
    window: tuple[Span, Span],
    steps: tuple[int, int],
    most: int | None = None,
) -> Strided:
    """Read every n-th pixel of a part of the first image of a source.

    Of a volume, the middle slice is read; a signal has one row.

    Parameters
    ----------
    source
        An image of any size.
    window
        Rows and columns of the part.
    steps
        The n of the rows, and that of the columns.
    most
        Pieces (chunks of a zarr, tiles of a TIFF) to read at most; if the pixels lie in more, only
        those of an even choice of pieces are read, and stand for the pixels beside them.  By
        default, all are read.

    Returns
    -------
    Strided
        The pixels, and whether all were read.

    Examples
    --------
    >>> from spnb.io.sources import ArraySource
    >>> image = ArraySource(np.arange(64, dtype=np.float32).reshape(1, 1, 8, 8))
    >>> strided(image, ((0, 8), (2, 8)), (4, 3)).pixels
    array([[[ 2.,  5.],
            [34., 37.]]], dtype=float32)
    """
    found = [range(*span, step) for span, step in zip(window, steps, strict=True)]
    pieces = piece_of(source)
    sides = [side or ALL for side in pieces]
    groups = [_grouped(places, side) for places, side in zip(found, sides, strict=True)]
    chosen = _chosen(groups, most if any(side > 1 for side in pieces) else None)
    read = [
        _joined(places, side, step) for places, side, step in zip(chosen, sides, steps, strict=True)
    ]
    rows, columns = ([y for group in axis for y in group] for axis in read)
    out = np.empty((source.shape[1], len(rows), len(columns)), np.float32)
    for (at_rows, ys), (at_columns, xs) in product(*map(_placed, read)):
        part = _read(source, (ys[0], ys[-1] + 1), (xs[0], xs[-1] + 1))
        out[:, at_rows, at_columns] = part[:, :: steps[0], :: steps[1]]
    exact = [len(rows), len(columns)] == [len(places) for places in found]
    if not exact:
        down, across = map(_nearest, found, (rows, columns))
        out = out[:, down][:, :, across]
    return Strided(out, exact)


def piece_of(source: Any) -> tuple[int, int]:
    """Rows and columns that a source decodes at once; 1 and 0 (all) if single rows cost nothing.

    >>> from spnb.io.sources import SyntheticSource
    >>> piece_of(SyntheticSource((1, 3, 64, 64)))
    (1, 0)
    """
    while hasattr(source, "source"):  # repeated, or changed as it is read
        source = source.source
    return getattr(source, "chunk_rows", 1), getattr(source, "chunk_columns", 0)


def _grouped(places: range, side: int) -> list[list[int]]:
    """The positions that lie in the same piece, for each piece that has some."""
    return [list(group) for _, group in groupby(places, lambda place: place // side)]


def _chosen(groups: Sequence[list[list[int]]], most: int | None) -> list[list[list[int]]]:
    """The groups of both axes; if they meet in too many pieces, every k-th group of each."""
    down, across = groups
    if most is None or len(down) * len(across) <= most:
        return [down, across]
    step = math.ceil(math.sqrt(len(down) * len(across) / most))
    return [axis[min(step // 2, len(axis) - 1) :: step] for axis in (down, across)]


def _joined(groups: list[list[int]], side: int, step: int) -> list[list[int]]:
    """Groups that follow one another, as larger ones, where nothing lies between that is not read.

    A call for each small chunk would take longer than decoding it.
    """
    found: list[list[int]] = []
    for group in groups:
        near = found and step <= side and group[0] - found[-1][-1] == step
        if near and group[-1] - found[-1][0] < max(SIDE, side):
            found[-1] += group
            continue
        found.append(list(group))
    return found


def _placed(groups: list[list[int]]) -> list[tuple[slice, list[int]]]:
    """Each group, with its place among the positions of all groups."""
    stops = np.cumsum([len(group) for group in groups])
    return [(slice(int(b) - len(g), int(b)), g) for b, g in zip(stops, groups, strict=True)]


def _nearest(places: range, kept: list[int]) -> np.ndarray:
    """For each position, the index of the nearest one among those that were read."""
    return np.abs(np.subtract.outer(np.array(places), np.array(kept))).argmin(axis=1)


def _read(source: Source, rows: Span, columns: Span) -> np.ndarray:
    """Read a rectangle of the first image as ``(channels, rows, columns)``."""
    space = source.shape[2:]
    ahead = [(n // 2, n // 2 + 1) for n in space[:-2]]
    down = [rows] if len(space) > 1 else []
    values = source.read(Region(((0, 1), *ahead, *down, columns)))
    return values.reshape(source.shape[1], length(rows), length(columns))
