"""Every notebook from top to bottom; no errors, no processes left."""

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


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_is_committed_executed_and_clean(path):
    source = path.read_text()
    assert '"execution_count": null' not in source
    assert "## Exercises" in source
    assert "image/png" in source
    assert not re.search(r"/(home|root|tmp|work)/", source)
    assert "Traceback" not in source
