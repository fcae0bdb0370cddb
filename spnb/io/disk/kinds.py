"""What there is at a path, in words: a file, a folder, a device.

Nothing slow is imported here: the command line asks before it loads PyTorch.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

_WORDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def kind_of(path: str | os.PathLike[str]) -> str:
    """What there is at a path, behind links: ``"a file"``, ``"a folder"``; empty for nothing.

    >>> kind_of("/"), kind_of("/dev/null"), kind_of("no such file")
    ('a folder', 'a device', '')
    """
    try:
        return _WORDS.get(stat.S_IFMT(os.stat(path).st_mode), "a file")
    except OSError:
        return ""


def no_file_at(path: str | os.PathLike[str]) -> str:
    """What there is at a path in place of a file; empty for a file, and for nothing.

    To read a pipe or a device may never end.
    """
    kind = kind_of(path)
    return "" if kind == "a file" else kind


def nearest(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    there = path.absolute()
    while not kind_of(there) and there != there.parent:
        there = there.parent
    return there
