"""JupyterLab in a real browser: the first tutorial's beginning, and a slider that is moved."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest

from notebooks import FOLDER

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.notebook,
    pytest.mark.mpi,
    pytest.mark.timeout(600),
    pytest.mark.skipif(BROWSER is None, reason="no chromium on PATH"),
]

EXPLORER = """\
import spnb
view = spnb.explore(spnb.Job("resnet29_v2", image_size=353, batch_size=1, resize=True), "retina")
view"""


def beginning(path):
    """A notebook up to its first timeline: `tests/test_notebooks.py` runs it whole."""
    notebook = nbformat.read(path, as_version=4)
    last = next(k for k, cell in enumerate(notebook.cells) if "plot_timeline" in cell.source)
    notebook.cells = notebook.cells[: last + 1]
    return notebook


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab on a folder with notebooks without outputs; its address."""
    home = tmp_path_factory.mktemp("lab")
    for name, notebook in {
        "first.ipynb": beginning(FOLDER / "01-first-split.ipynb"),
        "explorer.ipynb": nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(EXPLORER)]),
    }.items():
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
        nbformat.write(notebook, home / name)
    # All cells in the page, also those that one would have to scroll to.
    settings = home / "settings/@jupyterlab/notebook-extension/tracker.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({"windowingMode": "none"}))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = "spnb"
    options = [f"--port={port}", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={home}"]
    options += [f"--IdentityProvider.token={token}"]
    options += [f"--LabApp.user_settings_dir={home / 'settings'}"]
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "JUPYTER_CONFIG_DIR": str(home / "config")},
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{address}/api?token={token}", timeout=5)
                break
            except OSError:
                time.sleep(0.2)
        yield lambda name: f"{address}/lab/tree/{name}?token={token}&reset"
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    page = browser.new_page(viewport={"width": 1300, "height": 1000})
    page.set_default_timeout(60_000)
    yield page
    page.close()


def run_all(page, address):
    """Open a notebook, and run all its cells from the menu."""
    page.goto(address)
    page.wait_for_selector(".jp-NotebookPanel .jp-Notebook .jp-CodeCell")
    page.wait_for_selector("text=Python 3 (ipykernel) | Idle")  # in the status bar
    page.click('.lm-MenuBar-itemLabel:text-is("Run")')
    page.click('.lm-Menu-itemLabel:text-is("Run All Cells")')


def wait_for_last(page, seconds):
    """Until the last code cell has run; every cell's number."""
    done = """() => {
        const all = [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')];
        return all.length && all.every(e => /\\[\\d+\\]/.test(e.innerText));
    }"""
    page.wait_for_function(done, timeout=seconds * 1000)


def screenshot(page, name):
    """To be looked at: ``SPNB_SCREENSHOTS=FOLDER`` says where."""
    if folder := os.environ.get("SPNB_SCREENSHOTS"):
        page.set_viewport_size({"width": 1300, "height": 7000})
        page.evaluate("document.querySelector('.jp-WindowedPanel-outer').scrollTo(0, 0)")
        page.wait_for_timeout(1000)
        page.screenshot(path=Path(folder, f"{name}.png"))


@pytest.mark.slow
def test_the_first_tutorial(lab, page):
    run_all(page, lab("first.ipynb"))
    bar = page.wait_for_selector(".widget-hprogress", state="attached", timeout=120_000)
    assert bar is not None
    wait_for_last(page, 300)
    screenshot(page, "tutorial")
    text = page.inner_text(".jp-Notebook")
    assert "Traceback" not in text
    assert "Error" not in text
    assert text.count("equal to the untiled run") == 1
    pictures = page.query_selector_all('.jp-OutputArea img[src^="data:image/png"]')
    assert len(pictures) == 2
    assert all(picture.bounding_box()["width"] > 300 for picture in pictures)
    assert page.query_selector('.jp-RenderedHTMLCommon td:text-is("3")')  # the plan's grid
    assert not page.query_selector_all(".widget-hprogress")  # bars go when they are done


@pytest.mark.slow
def test_a_slider_of_the_explorer(lab, page):
    run_all(page, lab("explorer.ipynb"))
    picture = page.wait_for_selector(".widget-image, img.jupyter-widgets", timeout=120_000)
    page.wait_for_function("e => e.naturalWidth > 100", arg=picture)
    figures = page.locator(".widget-html").first
    assert "ranks 5" in " ".join(figures.inner_text().split())
    before = picture.get_attribute("src")
    handle = page.locator(".widget-slider", has_text="tiles").last.locator(".noUi-handle").first
    handle.focus()
    handle.press("ArrowRight")
    page.wait_for_function("([e, src]) => e.src !== src", arg=[picture, before])
    assert "ranks 6" in " ".join(figures.inner_text().split())
    screenshot(page, "explorer")
