"""Files of HDF5 and NIfTI, read by region with libraries that are not required.

The axes of NIfTI are in the order of nibabel: x, y and z.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ...ir.region import Region
from ..arrays import checked, floats, index_in
from ..disk.files import located, reading
from ..disk.kinds import kind_of
from ..layout import batched, layout_of, stored_index
from .sliced import chunk_of

HDF5 = b"\x89HDF\r\n\x1a\n"
"""The first bytes of a file of HDF5."""

GZIP = b"\x1f\x8b"

NIFTI = {344: (b"n+1\0",), 4: (b"n+2\0",)}
"""For each version of NIfTI, where its name stands in the file."""


def missing_library(name: str) -> ValueError:
    """The error of a format whose library is missing."""
    return ValueError(f"this format needs the package {name}: pip install {name}")


def of_dataset(path: str | Path) -> tuple[str, str]:
    """A path and the name of a dataset in that file, which follows a colon; empty without one.

    A file that has such a name is itself meant.

    >>> of_dataset("scans.h5:/left/eye"), of_dataset("scans.h5")
    (('scans.h5', '/left/eye'), ('scans.h5', ''))
    """
    text = str(path)
    file, colon, name = text.rpartition(":")
    if not colon or not Path(file).suffix or kind_of(Path(text).expanduser()):
        return text, ""
    return file, name


def is_nifti(path: str, start: bytes) -> bool:
    """Whether a file is of NIfTI in one file, compressed or not, by its first bytes."""
    if start.startswith(GZIP):
        try:
            with gzip.open(path) as file:
                start = file.read(348)
        except (OSError, EOFError):
            return False
    return any(start[at : at + 4] in names for at, names in NIFTI.items())


@dataclass
class LibrarySource:
    """An array in a file, which a library reads by region; `spnb.io.layout` has the layouts.

    Attributes
    ----------
    path, name
        The file, and its name for pictures and messages.
    dataset
        Name of the array in a file of HDF5; empty for NIfTI.
    layout
        The layout of its axes.
    """

    path: str
    name: str = ""
    dataset: str = ""
    layout: str = ""

    def __post_init__(self) -> None:
        self.path, self.name = located(self.path), self.name or Path(self.path).name
        with reading(self.path), opened_array(self.path, self.dataset) as array:
            whole = np.broadcast_to(np.empty((), array.dtype), array.shape)  # takes no memory
            self.shape = checked(batched(whole, self.layout), self.name)
            self.layout = self.layout or "BC" + "S" * (len(self.shape) - 2)
            # What nibabel rescales is of another type than the file.
            self.dtype = np.asarray(array[(slice(0, 1),) * len(array.shape)]).dtype
            self.chunk_rows, self.chunk_columns = chunk_of(array, self.layout)

    def read(self, region: Region) -> np.ndarray:
        """Read a region; see `Source`."""
        return self.read_as(region, np.float32)

    def read_as(self, region: Region, dtype: DTypeLike) -> np.ndarray:
        """Read a region in another type; see `spnb.io.sources.read_as`."""
        batch, _, *box = index_in(self.shape, region)
        with reading(self.path), opened_array(self.path, self.dataset) as array:
            stored = np.asarray(array[stored_index(self.layout, batch, box)])
        values = batched(stored, self.layout)
        return floats(values if "B" in self.layout else values[batch], dtype=dtype)


@contextmanager
def opened_array(path: str, dataset: str) -> Iterator[Any]:
    """Open a dataset of HDF5, or the array of a NIfTI, which has a shape, a type and slices.

    Raises
    ------
    ValueError
        If the library is missing.
    """
    if not dataset:
        try:
            from nibabel import load
        except ImportError:
            raise missing_library("nibabel") from None
        yield load(path).dataobj
        return
    try:
        from h5py import File
    except ImportError:
        raise missing_library("h5py") from None
    with File(path, "r") as file:
        yield file[dataset]


def named_dataset(path: str, dataset: str) -> str:
    """The dataset of a file of HDF5 that is meant: the named one, or the only one.

    Raises
    ------
    ValueError
        With the names of all, if there are several and none is named, or no such one.
    """
    try:
        from h5py import Dataset, File
    except ImportError:
        raise ValueError(f"cannot read {path}: {missing_library('h5py')}") from None
    names: list[str] = []

    def note(name: str, item: Any) -> None:
        if isinstance(item, Dataset):
            names.append(f"/{name}")

    wanted = "/" + dataset.strip("/")
    with reading(path), File(path, "r") as file:
        file.visititems(note)
        if dataset and isinstance(file.get(wanted), Dataset):  # a link is not visited
            return wanted
    if not dataset and len(names) == 1:
        return names[0]
    said = f"there is no dataset {wanted}" if dataset else f"it holds {len(names)} datasets"
    known = ", ".join(names) or "none"
    raise ValueError(f"cannot read {path}: {said} ({known}): name one, as {path}:/NAME")


def nifti_layout(
    path: str, channels: int, size: Sequence[int] | None, space: int | None, name: str
) -> str:
    """The layout of a NIfTI: axes of one element behind the image's own are dropped.

    The parameters are those of `spnb.io.layout.layout_of`; without ``space``, an array of several
    planes is a volume.
    """
    with reading(path), opened_array(path, "") as array:
        shape = tuple(array.shape)
    space = space or (3 if len(shape) > 2 and shape[2] > 1 else 2)
    kept = [k for k, n in enumerate(shape) if k < space or n > 1]
    letters = layout_of([shape[k] for k in kept], channels, size, space, name)
    if len(letters) < len(kept):
        raise ValueError(
            f"{name} has shape {shape}: give an array (batch, channels, *spatial) of {space}"
            " spatial axes"
        )
    letter_of = dict(zip(kept, letters, strict=True))
    return "".join(letter_of.get(k, "-") for k in range(len(shape)))
