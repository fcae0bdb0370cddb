"""README is short, shows where everything is, and names what exists."""

import re
import subprocess
import tomllib

from guide_pages import ROOT

README = (ROOT / "README.md").read_text()
CHANGES = {
    "the halo exchange": "ir",
    "a rule": "rules",
    "the timeline's colours": "display",
    "the engines' start; the checkpoint's format": "driver",
    "what `--balance` does": "planner",
}
"""What a newcomer may want to change, and the folder where it is."""


def test_it_fits_on_three_screens():
    assert len(README.splitlines()) <= 150


def layout():
    """The floor of each folder, and what is changed in it."""
    rows = re.findall(r"^\| (\d) \| `spnb/(\w+)` \| .* \| (.*) \|$", README, re.M)
    return {folder: (int(floor), change) for floor, folder, change in rows}


def test_every_folder_is_in_the_table():
    folders = {path.parent.name for path in (ROOT / "spnb").glob("*/__init__.py")}
    assert set(layout()) == folders


def test_a_newcomer_finds_where_to_change():
    assert {change: folder for folder, (_, change) in layout().items()}.items() >= CHANGES.items()


def test_floors_are_those_that_import_linter_holds():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (layers,) = (each["layers"] for each in settings["contracts"] if each["type"] == "layers")
    held = {
        folder: floor
        for floor, layer in enumerate(reversed(layers))
        for folder in layer.split(" | ")
    }
    assert held.pop("errors") == 0  # a module, below all folders
    assert {folder: floor for folder, (floor, _) in layout().items()} == held


def test_every_guide_page_and_notebook_is_listed():
    listed = set(re.findall(r"^\| \[[^]]*\]\((notebooks/[^)]*)\)", README, re.M))
    pages = [*ROOT.glob("notebooks/guide/*.md"), *ROOT.glob("notebooks/*.ipynb")]
    assert listed == {str(page.relative_to(ROOT)) for page in pages}


def test_nothing_but_what_belongs_at_the_top_level():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout
    top = {line.split("/")[0] for line in listed.splitlines()}
    belongs = {"notebooks", "spnb", "tests", "binder", "requirements.txt", "README.md", "LICENSE"}
    belongs |= {"pyproject.toml"}  # tools read it from the top
    assert all(name in belongs or name.startswith(".") for name in top)
