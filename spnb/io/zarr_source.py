"""A zarr array, read by region: only the chunks of a region are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..ir.region import Region
from .arrays import batched, checked, floats, index_in
from .files import reading

MARKS = ("zarr.json", ".zarray", ".zgroup")
"""Files that mark a folder as a zarr."""


@dataclass
class ZarrSource:
    """A zarr array on a file system; `spnb.io.sources.FileSource` lists the layouts."""

    path: str
    name: str = ""
    layout: str = "BCS"

    def __post_init__(self) -> None:
        self.path, self.name = str(Path(self.path).absolute()), self.name or Path(self.path).name
        array = self._array()
        whole = np.broadcast_to(np.empty((), array.dtype), array.shape)  # takes no memory
        self.shape = checked(batched(whole, self.layout), self.name)
        self.chunk_rows = array.chunks[self.layout.index("S")]

    def _array(self) -> Any:
        import zarr

        with reading(self.path):
            return zarr.open_array(self.path, mode="r")

    def read(self, region: Region) -> np.ndarray:
        """Read a region; see `Source`."""
        batch, channels, *box = index_in(self.shape, region)
        places = {"B": [batch], "C": [channels], "S": box, "A": []}
        index = [place for axis in self.layout for place in places[axis]]
        if self.layout == "SCA":
            index[-1] = slice(None)
        with reading(self.path):
            stored = self._array()[tuple(index)]
        values = batched(stored, self.layout)
        return floats(values if "B" in self.layout else values[batch])


def stored_shape(path: str | Path) -> tuple[int, ...]:
    """Return the shape of a zarr array.

    Raises
    ------
    ValueError
        If it cannot be opened; of a group, the message names its arrays.
    """
    import zarr

    with reading(str(path)):
        found = zarr.open(str(path), mode="r")
    if isinstance(found, zarr.Group):
        names = ", ".join(name for name, _ in found.arrays()) or "none"
        raise ValueError(f"{path} is a group of arrays ({names}): name one, as {path}/NAME")
    return found.shape


def is_zarr(path: str | Path) -> bool:
    """Whether a path is a folder in zarr's format."""
    return any(Path(path, mark).is_file() for mark in MARKS)
