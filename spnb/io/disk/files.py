"""How files are found, mapped and read, so that an error names the file in one line."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil

from ...display.cards import size_text
from .kinds import kind_of, no_file_at

NOT_DAMAGED = "if the file is not damaged, "
"""Begins the way out for a file whose header names more than there is memory for."""

_parsing = threading.Lock()


class NotByRegion(ValueError):
    """A file is not read by region here; another library may decode it as a whole."""


def mapped(path: str | Path, mode: str) -> np.memmap:
    """Map a ``.npy`` file as an array, in any thread.

    NumPy parses the header with Python's own parser, which Python 3.11 cannot do in two threads at
    once ("AST constructor recursion depth mismatch").
    """
    with _parsing:
        return np.lib.format.open_memmap(path, mode)


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turn an error of reading a file into one line that names the file.

    Raises
    ------
    ValueError
        In place of any other error, except a lack of memory; `NotByRegion` stays one.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        kind = NotByRegion if isinstance(error, NotByRegion) else ValueError
        raise kind(f"cannot read {path}: {reason}") from error


def refuse_without_memory(size: int, what: str, way_out: str) -> None:
    """Refuse to hold more bytes at once than there is memory for.

    Raises
    ------
    ValueError
        With both numbers, and a way out.
    """
    available = psutil.virtual_memory().available
    if size > available:
        raise ValueError(
            f"{what} do not fit into the memory: they take {size_text(size)}, and"
            f" {size_text(available)} are free; {way_out}"
        )


def located(path: str | Path) -> str:
    """Return the absolute path of a file, since an engine may run in another folder.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, or it is a folder, a pipe or a device.
    """
    file = Path(path).expanduser().absolute()
    if not kind_of(file):
        raise FileNotFoundError(f"there is no image file {path}")
    if kind := no_file_at(file):
        raise ValueError(f"{path} is {kind}: name one image file")
    return str(file)
