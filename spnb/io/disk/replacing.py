"""A file that takes the place of another one only when it is complete."""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
import shutil
import socket
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from ...errors import WriteError

_HOST = f"{zlib.crc32(socket.gethostname().encode()):08x}"
"""A number for this host: others may share its folders, and their processes are not seen here."""


@contextmanager
def replacing(path: Path, name: str | None = None) -> Iterator[Path]:
    """Yield the name of a new file or folder, which takes the place of a path after the block.

    It lies beside the path, so that it is moved at once.  If the block fails, it is removed, and
    what was at the path is still there.

    Parameters
    ----------
    path
        Where the file or folder is to be.
    name
        Name of the new file, which a killed process leaves behind; by default one that no other
        process has.

    Raises
    ------
    WriteError
        If it cannot be moved.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "a.txt")
    ...     with replacing(path) as new:
    ...         _ = new.write_text("complete")
    ...     path.read_text()
    'complete'
    """
    with beside(path, name) as new:
        yield new
        with writing(path):
            _move(new, Path(os.path.realpath(path)))


@contextmanager
def beside(path: Path, name: str | None = None) -> Iterator[Path]:
    """Yield the name of a file or folder beside a path, which is removed after the block.

    The parameters are those of `replacing`.
    """
    real = Path(os.path.realpath(path))  # a link stays a link
    new = real.with_name(name or f".{_HOST}-{os.getpid()}-{secrets.token_hex(2)}-{real.name}")
    with writing(path):
        real.parent.mkdir(parents=True, exist_ok=True)
    _remove_unfinished(real)
    try:
        yield new
    finally:
        remove(new)


def _remove_unfinished(path: Path) -> None:
    """Remove what processes of this host were about to put at a path when they were killed."""
    for each in path.parent.glob(f".{_HOST}-*-*-{glob.escape(path.name)}"):
        pid = each.name.split("-")[1]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            with contextlib.suppress(OSError):  # another user's
                remove(each)


def _move(new: Path, old: Path) -> None:
    """Move a file or folder to the place of another one, which is removed then."""
    if not (old.is_dir() and new.is_dir()):
        os.replace(new, old)
        return
    aside = old.with_name(f"{new.name}-old")  # a folder cannot take the place of a full one
    os.rename(old, aside)
    try:
        os.rename(new, old)
    except BaseException:
        os.rename(aside, old)
        raise
    remove(aside)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn an error of writing a file into one line that names the file and the cause.

    Raises
    ------
    WriteError
        In place of an error of the system.  PyTorch's writer raises a RuntimeError while that of
        the system is handled.
    """
    try:
        yield
    except WriteError:
        raise
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        # NumPy's error of a full disk has a text alone: how much was written.
        reason = cause.strerror or f"it is incomplete, the disk may be full ({cause})"
        raise WriteError(f"cannot write {path}: {reason}") from error
