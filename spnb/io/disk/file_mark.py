"""A file or a folder as one process sees it, by which another tells whether it sees the same."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class FileMark:
    """A path, and what the system says of the file or folder there.

    A file of the same name on another disk has another time.

    Attributes
    ----------
    path
        The path, which is absolute.
    size, changed
        Bytes, and the time of the last change in nanoseconds.

    Examples
    --------
    >>> FileMark.of(__file__).seen_here()
    True
    >>> FileMark("/nowhere", 0, 0).seen_here()
    False
    """

    path: str
    size: int
    changed: int

    @classmethod
    def of(cls, path: str | Path) -> FileMark:
        """The mark of a file or folder of this process."""
        found = os.stat(path)
        return cls(os.path.abspath(path), found.st_size, found.st_mtime_ns)

    def seen_here(self) -> bool:
        """Whether this process sees the same file or folder."""
        try:
            return FileMark.of(self.path) == self
        except OSError:
            return False
