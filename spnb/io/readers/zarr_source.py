"""A zarr array, read by region: only the chunks of a region are read."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ...ir.region import Region
from ..arrays import checked, floats, index_in
from ..disk.files import NOT_DAMAGED, reading, refuse_without_memory
from ..layout import batched, layout_of, named_layout, stored_index

MARKS = ("zarr.json", ".zarray", ".zgroup")
"""Names of files that a folder in zarr's format has."""


@dataclass
class ZarrSource:
    """A zarr array on a file system; `spnb.io.layout` has the layouts."""

    path: str
    name: str = ""
    layout: str = ""

    def __post_init__(self) -> None:
        self.path, self.name = str(Path(self.path).absolute()), self.name or Path(self.path).name
        array = self._array()
        self.dtype = np.dtype(array.dtype)
        whole = np.broadcast_to(np.empty((), self.dtype), array.shape)  # takes no memory
        self.shape = checked(batched(whole, self.layout), self.name)
        self.layout = self.layout or "BC" + "S" * (len(self.shape) - 2)
        rows = [k for k, letter in enumerate(self.layout) if letter == "S"]
        self.chunk_rows, self.chunk_columns = array.chunks[rows[-2:][0]], array.chunks[rows[-1]]
        self.piece_bytes = math.prod(array.chunks) * array.dtype.itemsize
        with reading(self.path):
            refuse_without_memory(
                self.piece_bytes, "its chunks", NOT_DAMAGED + "write smaller ones"
            )
            array[(slice(0, 1),) * array.ndim]  # a codec may be missing, or the chunk damaged

    def _array(self) -> Any:
        import zarr

        with reading(self.path):
            return zarr.open_array(self.path, mode="r")

    def read(self, region: Region) -> np.ndarray:
        """Read a region; see `Source`."""
        return self.read_as(region, np.float32)

    def read_as(self, region: Region, dtype: DTypeLike) -> np.ndarray:
        """Read a region in another type; see `spnb.io.sources.read_as`."""
        batch, _, *box = index_in(self.shape, region)
        with reading(self.path):
            stored = self._array()[stored_index(self.layout, batch, box)]
        values = batched(stored, self.layout)
        return floats(values if "B" in self.layout else values[batch], dtype=dtype)


def array_folder(array: Any) -> Path | None:
    """The folder of an array of zarr that is on a file system; None of any other object."""
    store, name = getattr(array, "store", None), getattr(array, "path", "")
    folder = None if store is None else getattr(store, "root", None)
    found = None if folder is None else Path(folder, name)
    return found if found is not None and is_zarr(found) else None


def of_scale(path: str, level: int | None) -> str:
    """The array of a level of an image in OME's zarr, which is a group; any other path as it is.

    Parameters
    ----------
    path
        A folder in zarr's format.
    level
        Of an image in several sizes; 0, the largest, by default.

    Raises
    ------
    ValueError
        If there is no such level.
    """
    images = _images_in(Path(path))
    if len(images) != 1:
        if level is not None:
            raise ValueError(f"cannot read {path}@{level}: name the array {path}/{level}")
        return path
    levels = _levels_of(images[0])
    if (level or 0) >= len(levels):
        raise ValueError(
            f"cannot read {path}@{level or 0}: there is no level {level or 0}: {Path(path).name}"
            f" has levels 0 to {len(levels) - 1}"
        )
    return str(Path(path, levels[level or 0]))


def _images_in(path: Path) -> list[dict[str, Any]]:
    """What OME's metadata say of the images that are arrays of a group of zarr; none of others."""
    import zarr

    if not is_zarr(path):
        return []
    with reading(str(path)):
        attributes: dict[str, Any] = dict(zarr.open(str(path), mode="r").attrs)
    return list(attributes.get("ome", attributes).get("multiscales", []))


def _levels_of(image: dict[str, Any]) -> list[str]:
    """The paths of an image's arrays in its group, the largest first."""
    return [data.get("path", "") for data in image.get("datasets", [])]


def zarr_layout(
    path: str | Path, channels: int, size: Sequence[int] | None, space: int, name: str
) -> str:
    """Return the layout of a zarr array, by the names of its axes if it has any.

    Names come from zarr's own ``dimension_names``, or from the axes in the metadata of an OME group
    that contains the array.  The parameters are those of `spnb.io.layout.layout_of`, but a
    ``space`` of 0 stands for the default number of axes of such an array.

    Raises
    ------
    ValueError
        If it cannot be opened, or its axes are not those of an image.  For a group, the message
        names its arrays.
    """
    import zarr

    with reading(str(path)):
        found = zarr.open(str(path), mode="r")
    if isinstance(found, zarr.Group):
        names = ", ".join(found.array_keys()) or ", ".join(found.group_keys()) or "none"
        raise ValueError(f"{path} is a group of arrays ({names}): name one, as {path}/NAME")
    shape, axes = found.shape, "".join(_axis_names(found, Path(path))).upper()
    space = space or {1: 1, 5: 3}.get(len(shape), 2)
    in_order = re.fullmatch("[TC]*Z?[TC]*Y[TC]*X[TC]*", axes)
    if in_order and len(axes) == len({*axes}) == len(shape) and space > 1:
        return named_layout(axes, shape, channels, size, space, name)
    return layout_of(shape, channels, size, space, name)


def _axis_names(array: Any, path: Path) -> list[str]:
    """Return the names of the axes of a zarr array; none if they are not known."""
    names = getattr(array.metadata, "dimension_names", None)
    if names is not None:
        return [name or "" for name in names]
    for group in (path.parent, path.parent.parent):
        for image in _images_in(group):
            if str(path.relative_to(group)) in _levels_of(image):
                return [str(axis.get("name", "")) for axis in image.get("axes", [])]
    return []


def is_zarr(path: str | Path) -> bool:
    """Whether a path is a folder in zarr's format."""
    return any(Path(path, mark).is_file() for mark in MARKS)
