"""A file that takes the place of another one only when it is complete."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import WriteError


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
    real = Path(os.path.realpath(path))  # a link stays a link
    new = real.with_name(name or f".{secrets.token_hex(4)}-{real.name}")
    with writing(path):
        real.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield new
        with writing(path):
            _move(new, real)
    except BaseException:
        remove(new)
        raise


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
