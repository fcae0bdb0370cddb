"""The files of a verb: refused before it runs if they cannot be written, and written after it."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import OptionError
from ..io.disk.replacing import replacing, writing
from ..io.disk.targets import refuse_folder, refuse_report, refuse_unwritable


def check_targets(args: argparse.Namespace, checkpoints: Mapping[str, Path] | None = None) -> None:
    """Refuse files of a line that cannot be written, before anything is started.

    Parameters
    ----------
    args
        The parsed line.
    checkpoints
        Files that a training writes, by what they are.

    Raises
    ------
    OptionError
        If a file cannot be written, is another program's, or is named twice.
    """
    checkpoints = checkpoints or {}
    for what, path in checkpoints.items():
        refuse_unwritable(path, what)
    if args.report:
        refuse_report(Path(args.report))
    if getattr(args, "save_plots", None):
        refuse_folder(Path(args.save_plots), f"pictures {args.save_plots}")
    named = [args.report, getattr(args, "save_output", None), *checkpoints.values()]
    files = [os.path.realpath(file) for file in named if file]
    for file in files:
        if files.count(file) > 1:
            raise OptionError(f"{file} is named for two files: name another one")


def save_picture(draw: Callable[[], Any], path: Path) -> None:
    """Draw a picture into a PNG file."""
    import matplotlib as mpl

    mpl.use("Agg")
    figure = draw().figure
    with replacing(path) as new, writing(path):
        figure.savefig(new, dpi=150, bbox_inches="tight")
    print(f"wrote {path}")


def save_report(report: dict[str, Any], path: Path) -> None:
    """Write figures into a JSON file."""
    text = json.dumps(report, indent=2) + "\n"
    with replacing(path) as new, writing(path):
        new.write_text(text)
    print(f"wrote {path}")
