"""Starts an ipyparallel engine on a host that may not see the caller's folder of the engines.

Used as a program: ``python -m spnb.engine.on_host``.  The engine's connection is in its
environment, but it needs a folder of its profile too: one is made, and removed as soon as the
engine has begun.
"""

from __future__ import annotations

import atexit
import os
import shutil
from pathlib import Path

FOLDER = "IPYTHONDIR"
"""Environment variable with the folder."""

OWN = "owner-of-engine"
"""A file in a folder that was made here."""


def make_folder() -> None:
    """Make the folder of the profile, unless this host sees that of the caller."""
    folder = Path(os.environ[FOLDER])
    if not folder.exists():
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / OWN).touch()
        atexit.register(remove_folder)


def remove_folder() -> None:
    """Remove the folder, if an engine of this host made it."""
    folder = Path(os.environ.get(FOLDER, ""))
    if (folder / OWN).exists():
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    make_folder()
    from ipyparallel.engine.app import main

    main()
