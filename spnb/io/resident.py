"""Images of this process, written to files that all processes of a host read by region."""

from __future__ import annotations

import tempfile
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np

from .background import Background
from .changed import Changed
from .disk.disk_space import claim
from .disk.replacing import writing
from .readers.sliced import SlicedSource
from .sources import ArraySource, FileSource, Repeated, Source

_OfProcess = ArraySource | SlicedSource


class ResidentSources:
    """Sources that all processes of a host can read by region, with no copy in each.

    The file of an image in memory is written once, and removed with its source.  So an image that
    was opened once may be read again at no cost.

    Parameters
    ----------
    folder
        Where the files are written.

    Examples
    --------
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sources = ResidentSources(folder)
    ...     image = ArraySource(np.zeros((1, 3, 8, 8)))
    ...     file = sources.resident(image)
    ...     type(file).__name__, sources.resident(image) is file
    ('FileSource', True)
    """

    def __init__(self, folder: str | Path):
        self._folder = Path(folder)
        self._written: weakref.WeakKeyDictionary[_OfProcess, FileSource] = (
            weakref.WeakKeyDictionary()
        )

    def resident(self, source: Source) -> Source:
        """Return a source that every process can read; one that is in a file is returned as it is.

        Parameters
        ----------
        source
            An image, or one that is repeated or changed as it is read.

        Returns
        -------
        Source
            The same image.
        """
        if isinstance(source, (ArraySource, SlicedSource)):
            return self._file_of(source)
        if isinstance(source, Background):
            return source.over(self.resident)
        if isinstance(source, (Repeated, Changed)):
            inner = self.resident(source.source)
            return source if inner is source.source else replace(source, source=inner)
        return source

    def _file_of(self, source: _OfProcess) -> FileSource:
        """The file of an image of this process, written when it is first asked for."""
        found = self._written.get(source)
        if found is None:
            found = self._written[source] = _in_file(source, self._folder)
            weakref.finalize(found, Path(found.path).unlink, missing_ok=True)
        return found


def _in_file(source: _OfProcess, folder: Path) -> FileSource:
    """Write an image of this process into a new file of a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        writing(f"{source.name} into {folder}"),
        tempfile.NamedTemporaryFile(dir=folder, suffix=".npy", delete=False) as file,
    ):
        if isinstance(source, ArraySource):
            np.save(file, np.ascontiguousarray(source.array))
        else:
            held = np.lib.format.open_memmap(file.name, "w+", source.dtype, source.shape)
            claim(Path(file.name), Path(file.name))
            for place, numbers in source.bands():
                held[place] = numbers
            held.flush()
    origin = source.path if isinstance(source, ArraySource) else ""
    return FileSource(file.name, source.name, origin=origin)
