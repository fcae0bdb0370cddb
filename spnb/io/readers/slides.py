"""Slides of microscopes that OpenSlide reads, level by level; and the names of levels.

Most slides are TIFFs, which `spnb.io.readers.tiff` reads.  Other formats, and TIFFs whose tiles
overlap, need the package ``openslide``, which is not required.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike

from ...ir.region import Region
from ..arrays import floats, index_in
from ..disk.files import located, reading
from ..disk.kinds import kind_of

if TYPE_CHECKING:
    from openslide import OpenSlide

SUFFIXES = (".czi", ".dcm", ".mrxs", ".vmf", ".vms", ".vmu")
"""Suffixes of slides that are no TIFFs."""

BLOCK = 512
"""Side of the blocks in which a level is read.

OpenSlide takes the place of a region in pixels of the full size.  If that is no whole number of
pixels of the level, its result depends on where a region begins; that of a block never does.
"""

WHITE = "ffffff"


def of_level(path: str | Path) -> tuple[str, int | None]:
    """A path and the number of a level of its pyramid, which follows an ``@``; None without one.

    A file that has such a name is itself meant.

    >>> of_level("slides/a.svs@2"), of_level("slides/a.svs")
    (('slides/a.svs', 2), ('slides/a.svs', None))
    """
    text = str(path)
    found = re.fullmatch(r"(.+)@(\d+)", text, re.DOTALL)
    if found is None or kind_of(Path(text).expanduser()):
        return text, None
    return found[1], int(found[2])


def require_level(name: str, levels: int, level: int) -> None:
    """Refuse a level that an image does not have.

    Raises
    ------
    ValueError
        With the number of its levels.
    """
    if level >= levels:
        which = "level 0 only" if levels == 1 else f"levels 0 to {levels - 1}"
        raise ValueError(f"there is no level {level}: {name} has {which}")


@dataclass
class SlideSource:
    """A level of a slide, read by region with OpenSlide, in RGB.

    Pixels that were not scanned have the slide's background colour, white if it names none.

    Attributes
    ----------
    path, name
        The file, and its name for pictures and messages.
    level
        Number of the level; 0 has the full size.
    shape
        ``(1, 3, rows, columns)``.
    """

    path: str
    name: str = ""
    level: int = 0

    def __post_init__(self) -> None:
        self.path, self.name = located(self.path), self.name or Path(self.path).name
        with reading(self.path):
            slide = _opened(self.path)
            require_level(Path(self.path).name, slide.level_count, self.level)
            columns, rows = slide.level_dimensions[self.level]
            self.shape = (1, 3, rows, columns)

    @property
    def piece_bytes(self) -> int:
        """Bytes that are decoded at once."""
        return BLOCK * BLOCK * 4

    def read(self, region: Region) -> np.ndarray:
        """Read a region; see `Source`."""
        return self.read_as(region, np.float32)

    def read_as(self, region: Region, dtype: DTypeLike) -> np.ndarray:
        """Read a region in another type; see `spnb.io.sources.read_as`."""
        images = index_in(self.shape, region)[0]
        need = Region(region.spans[1:])
        found = np.empty((*need.shape, 3), np.uint8)
        with reading(self.path):
            slide = _opened(self.path)
            for block in _blocks(need, self.shape[2:]):
                part = block & need
                pixels = _pixels(slide, self.level, block)
                found[part.slices_in(need)] = pixels[part.slices_in(block)]
        values = np.moveaxis(found, -1, 0)[None]
        return floats(values[images], 255, dtype)


def _blocks(need: Region, size: tuple[int, ...]) -> list[Region]:
    """The blocks of a level that a region overlaps."""
    ranges = [range(a // BLOCK * BLOCK, b, BLOCK) for a, b in need.spans]
    whole = Region.whole(size)
    return [Region(((y, y + BLOCK), (x, x + BLOCK))) & whole for y in ranges[0] for x in ranges[1]]


def _pixels(slide: OpenSlide, level: int, block: Region) -> np.ndarray:
    """A block of a level over the background, as RGB."""
    from PIL import Image

    (top, bottom), (left, right) = block.spans
    step = slide.level_downsamples[level]
    corner = (round(left * step), round(top * step))
    pixels = slide.read_region(corner, level, (right - left, bottom - top))
    colour = slide.properties.get("openslide.background-color", WHITE)
    ground = Image.new("RGB", pixels.size, f"#{colour}")
    ground.paste(pixels, mask=pixels.getchannel("A"))
    return np.asarray(ground)


def _opened(path: str) -> OpenSlide:
    """A slide, opened again only if the file was written since."""
    return _opened_at(path, Path(path).stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _opened_at(path: str, written: int) -> Any:
    """A slide, which stays open as long as it is among the last ones."""
    try:
        from openslide import OpenSlide
    except (ImportError, OSError) as error:
        raise ValueError(
            "this format needs the package openslide: pip install openslide-python openslide-bin"
        ) from error
    return OpenSlide(path)
