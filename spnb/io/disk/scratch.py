"""Folders for files that live as long as a session, and no longer than its process.

A process that is killed removes nothing.  So each folder has a file that its process keeps locked,
and the next process that makes a folder removes those whose file nobody has locked.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

OWNER = "owner"
"""The file in a folder that its process keeps locked."""

_locks: dict[Path, int] = {}  # the descriptor of the locked file of each folder of this process


def scratch_folder(kind: str = "") -> Path:
    """Make a folder in the system's folder for temporary files.

    Parameters
    ----------
    kind
        What it holds, for its name.

    Examples
    --------
    >>> folder = scratch_folder()
    >>> folder.exists()
    True
    >>> remove_scratch(folder)
    >>> folder.exists()
    False
    """
    remove_orphans()
    folder = Path(tempfile.mkdtemp(prefix=f"spnb-{kind}-" if kind else "spnb-"))
    file = folder / f"{OWNER}-new"
    lock = os.open(file, os.O_CREAT | os.O_RDWR, 0o600)
    with contextlib.suppress(OSError):  # a disk without locks: only this process removes it
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.rename(folder / OWNER)  # others see the file once it is locked
    _locks[folder] = lock
    return folder


def remove_scratch(folder: Path) -> None:
    """Remove a folder of this process; what is missing is no error."""
    shutil.rmtree(folder, ignore_errors=True)
    if (lock := _locks.pop(folder, None)) is not None:
        os.close(lock)


def remove_orphans() -> None:
    """Remove the folders of processes that have ended without doing so."""
    for file in Path(tempfile.gettempdir()).glob(f"spnb-*/{OWNER}"):
        with contextlib.suppress(OSError):  # another user's, or being removed
            lock = os.open(file, os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(file.parent, ignore_errors=True)
            finally:
                os.close(lock)
