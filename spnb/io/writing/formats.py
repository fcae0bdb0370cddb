"""The formats of saved outputs, chosen by the suffix of the file's name.

Nothing slow is imported here: the command line refuses a wrong suffix at once.
"""

from __future__ import annotations

from pathlib import Path

SUFFIXES = (".npy", ".tif", ".tiff", ".png", ".zarr")


def check_suffix(path: str | Path) -> None:
    """Refuse a name under which an output cannot be saved.

    Raises
    ------
    ValueError
        If the suffix is none of `SUFFIXES`.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"cannot save as {path.name}: use {', '.join(SUFFIXES)}")
