"""Executes the notebooks as a user would, and keeps their outputs free of this machine's noise.

``python tests/helpers/notebooks.py`` executes all of them in place, to be committed.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # it takes seconds to import, which every collection of tests would wait for
    import nbformat

FOLDER = Path(__file__).parents[2] / "notebooks"


def execute(path: Path) -> nbformat.NotebookNode:
    """Run all cells in a fresh kernel, in the notebook's own folder."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": FOLDER}}
    )
    with client.setup_kernel():
        for number, cell in enumerate(notebook.cells):
            client.execute_cell(cell, number)
    return notebook


def cleaned(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Without times of day, progress bars and what else is only true of one run."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata = {}
        for output in cell.get("outputs", []):
            output.pop("metadata", None)
            if output.output_type in ("display_data", "execute_result"):
                output.metadata = {}
        cell["outputs"] = [o for o in cell.get("outputs", []) if not _noise(o)] or []
        if cell.cell_type == "markdown":
            cell.pop("outputs", None)
    return notebook


WIDGET = "application/vnd.jupyter.widget-view+json"


def _noise(output: nbformat.NotebookNode) -> bool:
    """Whether nothing of an output is left to show; of a widget with a picture, the picture is."""
    if output.output_type == "stream" and output.name == "stderr":
        return True
    return output.get("data", {}).pop(WIDGET, None) is not None and "image/png" not in output.data


if __name__ == "__main__":
    import nbformat

    # Simulations are of the built-in machine, whatever this one was measured to be.
    os.environ["SPNB_MACHINE"] = str(Path(__file__).with_name("no-machine.json"))
    for path in sorted(map(Path, sys.argv[1:])) or sorted(FOLDER.glob("*.ipynb")):
        begun = time.monotonic()
        nbformat.write(cleaned(execute(path)), path)
        print(f"executed {path.name} in {time.monotonic() - begun:.0f} s", flush=True)
