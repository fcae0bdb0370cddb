"""What a saved output may take the place of: an array, and never an input of its run."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from ...ir.option_words import option
from ..disk.files import mapped
from ..disk.kinds import kind_of
from .png import is_png

_PART_OF_ZARR = re.compile(r"zarr\.json|\.z(array|attrs|metadata)|c(/\d+)*|\d+([./]\d+)*")
"""Paths in the folder of a zarr array, of version 2 or 3."""


def refuse_loss(path: Path, overwrite: bool, inputs: Iterable[str | Path]) -> None:
    """Refuse an output in whose place something would be lost.

    Parameters
    ----------
    path
        Where the output is to be saved.
    overwrite
        Whether an array may be replaced.
    inputs
        Files that the run reads.

    Raises
    ------
    ValueError
        If the output is a file that is read, or lies inside one.
    FileExistsError
        If there is an array and ``overwrite`` is False, or if there is anything else.
    """
    for file in inputs:
        if _overlap(path, Path(file)):
            raise ValueError(f"cannot save as {path}: the run reads {file}: name another file")
    if not kind_of(path):
        return
    if not is_array(path):
        raise FileExistsError(
            f"{path} exists and is no {path.suffix} that spnb can read, so it is never replaced:"
            " name another file"
        )
    if not overwrite:
        raise FileExistsError(
            f"{path} exists: name another file, or replace it with {option('overwrite', True)}"
        )


def _overlap(path: Path, other: Path) -> bool:
    """Whether one of two paths is the other, or lies inside it."""
    if path.exists() and other.exists() and path.samefile(other):
        return True
    one, two = (Path(os.path.realpath(each)) for each in (path, other))
    return one.is_relative_to(two) or two.is_relative_to(one)


def is_array(path: Path) -> bool:
    """Whether a file or folder is an array in the format of its suffix, and nothing besides."""
    kind, suffix = kind_of(path), path.suffix
    if kind != ("a folder" if suffix == ".zarr" else "a file"):
        return False
    try:
        return {".npy": _is_npy, ".png": is_png, ".zarr": _is_zarr}.get(suffix, _is_tiff)(path)
    except Exception:  # each library has errors of its own for what it cannot read
        return False


def _is_npy(path: Path) -> bool:
    return mapped(path, "r").ndim >= 0


def _is_tiff(path: Path) -> bool:
    from tifffile import TiffFile

    with TiffFile(path) as tif:
        return len(tif.series) > 0


def _is_zarr(path: Path) -> bool:
    import zarr

    zarr.open_array(str(path), mode="r")
    files = (Path(folder, name) for folder, _, names in os.walk(path) for name in names)
    return all(_PART_OF_ZARR.fullmatch(file.relative_to(path).as_posix()) for file in files)
