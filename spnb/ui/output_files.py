"""Writes the pictures and the report of a verb."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def save_picture(draw: Callable[[], Any], path: Path) -> None:
    """Draw a picture into a PNG file."""
    import matplotlib as mpl

    mpl.use("Agg")
    path.parent.mkdir(parents=True, exist_ok=True)
    draw().figure.savefig(path, dpi=150, bbox_inches="tight")
    print(f"wrote {path}")


def save_report(report: dict[str, Any], path: Path) -> None:
    """Write figures into a JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")
    print(f"wrote {path}")
