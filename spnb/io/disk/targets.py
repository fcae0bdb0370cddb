"""What may be written where: refused before a run, so that nothing is computed in vain.

Nothing slow is imported here: the command line asks before it loads PyTorch.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from ...errors import OptionError
from .kinds import kind_of, nearest

REPORTED = {"job", "benches", "exchanges"}
"""Entries of reports; each report has one of them."""


def refuse_unwritable(path: Path, what: str, kind: str = "a file") -> None:
    """Refuse a path at which no file can be made, or only one in place of something else.

    Parameters
    ----------
    path
        Where a file is to be written.
    what
        What it is to hold, in words.
    kind
        What may be there already: see `spnb.io.disk.kinds.kind_of`.

    Raises
    ------
    OptionError
        Naming path and cause.

    Examples
    --------
    >>> refuse_unwritable(Path("/"), "report")
    Traceback (most recent call last):
    spnb.errors.OptionError: cannot write the report /: it is a folder
    """
    found = kind_of(path)
    if found not in ("", kind):
        raise OptionError(f"cannot write the {what} {path}: it is {found}")
    if found and not os.access(path, os.W_OK):
        raise OptionError(f"cannot write the {what} {path}: it is write-protected")
    refuse_folder(Path(os.path.realpath(path)).parent, f"{what} {path}")


def refuse_folder(folder: Path, what: str) -> None:
    """Refuse a folder in which no file can be made; one that is missing will be made.

    Parameters
    ----------
    folder
        Where files are to be written.
    what
        What is to be written, in words.

    Raises
    ------
    OptionError
        Naming folder and cause.
    """
    there = nearest(folder)
    try:  # permissions alone do not tell it, nor whether there is space
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(bytes(1 << 12))
    except OSError as error:
        raise OptionError(f"cannot write the {what}: {there}: {error.strerror}") from None


def refuse_report(path: Path) -> None:
    """Refuse a path to which no report can be written, or where another file is.

    Raises
    ------
    OptionError
        Naming path and cause.
    """
    refuse_unwritable(path, "report")
    if not path.exists() or not path.stat().st_size:
        return
    try:
        known = REPORTED & json.loads(path.read_text()).keys()
    except (ValueError, AttributeError):
        known = set()
    if not known:
        raise OptionError(
            f"{path} exists and is no report of spnb, so it is not replaced: name another file"
        )
