"""Every notebook from top to bottom; no errors, no processes left."""

import json
import re
from importlib.util import find_spec

import pytest
from processes import processes_of

from notebooks import FOLDER, execute

NEEDS_DIFFUSERS = "10-a-decoder-with-attention"
pytestmark = [pytest.mark.notebook, pytest.mark.mpi, pytest.mark.timeout(900)]


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_runs_from_top_to_bottom(path, tmp_path, monkeypatch):
    if path.stem == NEEDS_DIFFUSERS and find_spec("diffusers") is None:
        pytest.skip("diffusers: .venv/bin/pip install --no-deps -r tests/networks.txt")
    monkeypatch.setenv("SPNB_NOTEBOOK", str(tmp_path))
    notebook = execute(path)
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", [])]
    assert not [o for o in outputs if o.output_type == "error"]
    text = " ".join(o.get("text", "") for o in outputs)
    assert "equal to the untiled run" in text
    assert "NOT equal" not in text
    assert sum("image/png" in o.get("data", {}) for o in outputs) >= 3
    assert not processes_of(str(tmp_path))


def numbered(text):
    return [int(number) for number in re.findall(r"^(\d+)\. ", text, re.M)]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_every_exercise_has_a_solution(path):
    cells = json.loads(path.read_text())["cells"]
    exercises, solutions = ("".join(cell["source"]) for cell in cells[-2:])
    exercises = exercises.partition("## Exercises\n")[2]
    assert solutions.startswith("<details><summary>Solutions</summary>\n\n")
    assert solutions.endswith("\n\n</details>")
    assert numbered(solutions) == numbered(exercises) == [*range(1, len(numbered(exercises)) + 1)]
    assert numbered(exercises)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_is_committed_executed_and_clean(path):
    source = path.read_text()
    assert '"execution_count": null' not in source
    assert "## Exercises" in source
    assert "image/png" in source
    assert not re.search(r"/(home|root|tmp|work)/", source)
    assert "Traceback" not in source
