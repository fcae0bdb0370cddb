"""Images in memory, written to a file that all processes of a host read by region."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from .sources import ArraySource, FileSource, Repeated, Source


def resident(source: Source, folder: str | Path) -> Source:
    """Return a source that all processes of a host can read by region, with no copy in each.

    An image in memory is written once into ``folder``; any other source is returned unchanged.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     type(resident(ArraySource(np.zeros((1, 3, 8, 8))), folder)).__name__
    'FileSource'
    """
    if isinstance(source, Repeated):
        return replace(source, source=resident(source.source, folder))
    if not isinstance(source, ArraySource):
        return source
    return in_file(source, folder)


def in_file(source: ArraySource, folder: str | Path) -> FileSource:
    """Write an image in memory into a new file of a folder, and return the file as a source."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".npy", delete=False) as file:
        np.save(file, np.ascontiguousarray(source.array))
    return FileSource(file.name, source.name)
