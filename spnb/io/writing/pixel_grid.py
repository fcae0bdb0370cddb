"""Where the pixels of an image lie in the world, as the tags of a TIFF say.

A GeoTIFF has a coordinate system and the place of its pixels in it; an OME-TIFF, a TIFF of ImageJ
and tags of the resolution have the size of a pixel.  A file that is saved from an output has the
grid of the image, moved to the output's positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from ...ir.axes import Axes, Extent
from ..disk.files import reading
from ..readers.tiff import MARKS
from ..readers.tiff_pages import opened_tiff

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

SCALE, TIEPOINT, TRANSFORMATION, KEYS = 33550, 33922, 34264, 34735
"""Codes of GeoTIFF's tags: ModelPixelScale, ModelTiepoint, ModelTransformation, GeoKeyDirectory."""

UNCHANGED = {KEYS: 3, 34736: 12, 34737: 2}
"""Codes of the tags of the coordinate system, and the types of their elements."""

RASTER_TYPE, POINT = 1025, 2
"""The key that says whether a pixel's coordinates are those of its corner or of its middle."""

CENTIMETRES = {"m": 100.0, "cm": 1.0, "mm": 0.1, "µm": 1e-4, "nm": 1e-7, "Å": 1e-8}
"""Lengths of the units of pixels that a resolution can be given for."""

OF_IMAGEJ = {"micron": "µm", "um": "µm", r"\u00B5m": "µm", "µm": "µm", "mm": "mm", "cm": "cm"}
"""OME's names of the units that ImageJ writes, the micrometre with an escape."""


@dataclass(frozen=True)
class PixelGrid:
    """The grid of an image's pixels.

    Attributes
    ----------
    extent
        Rows and columns of the image that it was read from, and planes before them, if any.
    geo
        Tags of a GeoTIFF, by their codes.
    resolution
        Pixels to an inch or centimetre along the columns and the rows, and the code of the unit.
    sizes
        Size of a pixel and the unit of it, by the letter of the axis: X, Y, Z.
    """

    extent: Extent
    geo: Mapping[int, Any] = field(default_factory=dict)
    resolution: tuple[float, float, int] | None = None
    sizes: Mapping[str, tuple[float, str]] = field(default_factory=dict)

    @property
    def known(self) -> bool:
        """Whether the file says anything of it."""
        return bool(self.geo or self.resolution or self.sizes)

    @property
    def what(self) -> str:
        """What the file says, in a word."""
        return "georeference" if self.geo else "pixel size"

    def moved(self, scales: Sequence[float], shifts: Sequence[float]) -> PixelGrid:
        """The grid of positions that lie on this one.

        Parameters
        ----------
        scales, shifts
            For each axis: the position ``k`` covers ``shift + k * scale`` to
            ``shift + (k + 1) * scale`` of this grid's pixels.
        """
        resolution = self.resolution
        if resolution is not None:
            resolution = (resolution[0] / scales[-1], resolution[1] / scales[-2], resolution[2])
        by_letter = dict(zip("XYZ", reversed(scales), strict=False))
        sizes = {
            letter: (size * by_letter.get(letter, 1.0), unit)
            for letter, (size, unit) in self.sizes.items()
        }
        geo = dict(self.geo)
        if geo:
            geo |= self._moved_geo(scales[-1], scales[-2], shifts[-1], shifts[-2])
        return replace(self, geo=geo, resolution=resolution, sizes=sizes)

    def _moved_geo(self, sx: float, sy: float, ox: float, oy: float) -> dict[int, Any]:
        """The tags of the place, for positions with these scales and shifts."""
        if self._counts_middles:  # whose coordinates are half a pixel less
            ox, oy = ox + (sx - 1) / 2, oy + (sy - 1) / 2
        found: dict[int, Any] = {}
        if SCALE in self.geo:
            x, y, z = self.geo[SCALE]
            found[SCALE] = (x * sx, y * sy, z)
        if TIEPOINT in self.geo:
            points = np.array(self.geo[TIEPOINT], float).reshape(-1, 6)
            points[:, 0] = (points[:, 0] - ox) / sx
            points[:, 1] = (points[:, 1] - oy) / sy
            found[TIEPOINT] = tuple(points.ravel().tolist())
        if TRANSFORMATION in self.geo:
            matrix = np.array(self.geo[TRANSFORMATION], float).reshape(4, 4)
            onto = np.array([[sx, 0, 0, ox], [0, sy, 0, oy], [0, 0, 1, 0], [0, 0, 0, 1]])
            found[TRANSFORMATION] = tuple((matrix @ onto).ravel().tolist())
        return found

    @property
    def _counts_middles(self) -> bool:
        keys = np.array(self.geo.get(KEYS, ()), int).reshape(-1, 4)[1:]
        return any(key == RASTER_TYPE and value == POINT for key, _, _, value in keys.tolist())

    def tags(self) -> dict[str, Any]:
        """The grid as arguments of `tifffile.imwrite`."""
        found: dict[str, Any] = {}
        doubles = (SCALE, TIEPOINT, TRANSFORMATION)
        types = UNCHANGED | dict.fromkeys(doubles, 12)
        if self.geo:
            found["extratags"] = [
                (code, types[code], 0 if types[code] == 2 else len(value), value, False)
                for code, value in sorted(self.geo.items())
            ]
        lengths = [self.sizes.get(letter, (0.0, "")) for letter in "XY"]
        if all(size and unit in CENTIMETRES for size, unit in lengths):
            found["resolution"] = tuple(1 / (n * CENTIMETRES[unit]) for n, unit in lengths)
            found["resolutionunit"] = "CENTIMETER"
        elif self.resolution is not None:
            found["resolution"], found["resolutionunit"] = self.resolution[:2], self.resolution[2]
        return found

    def ome(self) -> dict[str, Any]:
        """The sizes of pixels as metadata of an OME-TIFF."""
        found: dict[str, Any] = {}
        for letter, (size, unit) in self.sizes.items():
            found |= {f"PhysicalSize{letter}": size, f"PhysicalSize{letter}Unit": unit}
        return found


def pixel_grid(path: str | Path) -> PixelGrid | None:
    """Read the grid of the first image of a TIFF; None for a file that has none.

    Raises
    ------
    ValueError
        If the file cannot be read.
    """
    if not Path(path).is_file():
        return None
    with reading(str(path)):
        with Path(path).open("rb") as file:
            if not file.read(4).startswith(MARKS):
                return None
        with opened_tiff(str(path)) as tif:
            page = tif.pages.first
            rows, columns = page.imagelength, page.imagewidth
            grid = PixelGrid((rows, columns), _geo(page), _resolution(page), _sizes(tif))
    return grid if grid.known else None


def _geo(page: TiffPage) -> dict[int, Any]:
    codes = (SCALE, TIEPOINT, TRANSFORMATION, *UNCHANGED)
    found = {code: page.tags.valueof(code) for code in codes if code in page.tags}
    placed = found.keys() & {SCALE, TIEPOINT, TRANSFORMATION}
    return found if placed else {}


def _resolution(page: TiffPage) -> tuple[float, float, int] | None:
    values = [page.tags.valueof(code) for code in (282, 283)]
    unit = int(page.tags.valueof(296, 2))
    if unit not in (2, 3) or not all(v and v[0] > 0 and v[1] > 0 for v in values):
        return None
    across, down = (a / b for a, b in values)
    return across, down, unit


def _sizes(tif: TiffFile) -> dict[str, tuple[float, str]]:
    """The sizes of pixels that OME's or ImageJ's description has."""
    if tif.is_ome and tif.ome_metadata:
        pixels = ElementTree.fromstring(tif.ome_metadata).find(".//{*}Pixels")
        known = {} if pixels is None else pixels.attrib
        return {
            letter: (float(known[name]), known.get(f"{name}Unit", "µm"))
            for letter, name in ((each, f"PhysicalSize{each}") for each in "XYZ")
            if name in known
        }
    described = tif.imagej_metadata or {}
    unit = OF_IMAGEJ.get(str(described.get("unit", "")))
    ratios = [tif.pages.first.tags.valueof(code) for code in (282, 283)]
    if unit is None or not all(ratio and ratio[0] for ratio in ratios):
        return {}
    (x, y) = (ratio[1] / ratio[0] for ratio in ratios)
    depth = {"Z": (float(described["spacing"]), unit)} if "spacing" in described else {}
    return {"X": (x, unit), "Y": (y, unit), **depth}


def has_rows_and_columns(axes: Axes) -> bool:
    """Whether the last dimensions of an output are its spatial axes, so a TIFF's pages show it."""
    return axes.rank >= 3 and axes.shape[-(axes.rank - 1) :] == axes.extent[1:] and axes.plain
