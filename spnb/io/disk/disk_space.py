"""Space on a disk, claimed before a file is filled.

A file that is mapped has blocks only where it is written.  On a full disk the write would end the
process by a signal, which no error handler sees.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ...display.cards import size_text
from ...errors import OptionError, WriteError
from .kinds import nearest


def require_space(path: Path, size: int) -> None:
    """Refuse a file that is larger than the free space of its disk.

    Parameters
    ----------
    path
        The file, which need not exist.
    size
        Its bytes.

    Raises
    ------
    OptionError
        With both numbers.
    """
    if size > _free(path):
        raise OptionError(_too_large(path, size))


def claim(file: Path, path: Path) -> None:
    """Give every byte of a file a block of the disk.

    Parameters
    ----------
    file
        A file in its full size, which may be sparse.
    path
        Its name in messages.

    Raises
    ------
    WriteError
        If there is not enough space.
    """
    size = file.stat().st_size
    try:
        if hasattr(os, "posix_fallocate"):
            with file.open("r+b") as opened:
                os.posix_fallocate(opened.fileno(), 0, size)
        elif size > _free(file):
            raise OSError
    except OSError as error:
        reason = f" ({error.strerror})" if error.strerror else ""
        raise WriteError(_too_large(path, size) + reason) from error


def _free(path: Path) -> int:
    """Free bytes of the disk of a file, which need not exist."""
    return shutil.disk_usage(nearest(path)).free


def _too_large(path: Path, size: int) -> str:
    return f"cannot write {path}: it takes {size_text(size)}, and {size_text(_free(path))} are free"
