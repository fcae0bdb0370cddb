"""The sample images inside the installed scikit-image; nothing is downloaded."""

from __future__ import annotations

import difflib
import importlib.util
from pathlib import Path

_ALIASES = {"cat": "chelsea", "clock": "clock_motion", "colorwheel": "color"}
_ALIASES |= {"immunohistochemistry": "ihc", "checkerboard": "chessboard_GRAY"}


def samples() -> dict[str, Path]:
    """Return the images inside the installed scikit-image, by name."""
    package = importlib.util.find_spec("skimage")
    assert package is not None and package.submodule_search_locations, "spnb requires scikit-image"
    (folder,) = package.submodule_search_locations
    found = {
        file.stem: file
        for file in sorted(Path(folder, "data").iterdir())
        if file.suffix in {".png", ".jpg"}
    }
    return found | {name: found[stem] for name, stem in _ALIASES.items() if stem in found}


def hint(path: str | Path) -> str:
    """Return a suggestion for a name that is no file, as the end of an error message."""
    if len(Path(path).parts) != 1:
        return ""
    known = samples()
    near = difflib.get_close_matches(Path(path).stem, known, n=3)
    names = f"did you mean {' or '.join(near)}?" if near else f"they are {', '.join(known)}"
    return f", and no sample of that name: {names}"
