"""JupyterLab in a real browser: the first tutorial's beginning, a slider, the views of a run."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from functools import partial
from pathlib import Path
from types import SimpleNamespace

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

VIEW = """\
import numpy as np, spnb, torch
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 4, 3, padding=1))
job = spnb.Job(net, image_size="600x900", batch_size=1, stages=1, tiles=6)
noise = np.random.default_rng(0).random((1, 3, 600, 900), np.float32)
result = spnb.InProcess(spnb.plan(job), progress=False).infer(noise)
result.show()"""

ZOOM = """\
import numpy as np, spnb, torch, zarr
array = zarr.create_array("noise.zarr", shape=(16384, 16384), chunks=(1024, 1024), dtype="uint8")
for row in range(0, 16384, 2048):
    array[row : row + 2048] = np.random.default_rng(row).integers(0, 256, (2048, 16384), np.uint8)
net = torch.nn.Conv2d(1, 1, 3, padding=1)
view = spnb.plan(net, image_size=16384, batch_size=1, stages=1, tiles=16).show("noise.zarr")
own = view.tile
def noted(*asked):
    print(*asked, file=open("read.txt", "a"))
    return own(*asked)
view.tile = noted
view"""

LIVE = """\
import spnb, torch
net = torch.nn.Sequential(*[torch.nn.Conv2d(8 if k else 3, 8, 3, padding=1) for k in range(40)])
job = spnb.Job(net, image_size=1024, batch_size=6, parts=6, stages=2, tiles=2)
cluster = spnb.start(job)
result = cluster.infer()
spnb.stop()"""


def beginning(path):
    """A notebook up to its first timeline: `tests/test_notebooks.py` runs it whole."""
    import nbformat  # takes seconds, which every collection of tests would wait for

    notebook = nbformat.read(path, as_version=4)
    last = next(k for k, cell in enumerate(notebook.cells) if "plot_timeline" in cell.source)
    notebook.cells = notebook.cells[: last + 1]
    return notebook


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab on a folder with notebooks without outputs; its address."""
    import nbformat

    home = tmp_path_factory.mktemp("lab")
    notebooks = {"first.ipynb": beginning(FOLDER / "01-first-split.ipynb")}
    cells = {"explorer": EXPLORER, "view": VIEW, "zoom": ZOOM, "live": LIVE}
    for name, cell in cells.items():
        cell = nbformat.v4.new_code_cell(cell)
        notebooks[f"{name}.ipynb"] = nbformat.v4.new_notebook(cells=[cell])
    for name, notebook in notebooks.items():
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
        address_of = partial("{}/lab/tree/{}?token={}&reset".format, address)
        yield SimpleNamespace(home=home, address_of=lambda name: address_of(name, token))
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
    run_all(page, lab.address_of("first.ipynb"))
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
    run_all(page, lab.address_of("explorer.ipynb"))
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


def shown_view(lab, page, name):
    """Run a notebook whose last cell shows a view; the view, when its first tiles are drawn."""
    run_all(page, lab.address_of(f"{name}.ipynb"))
    root = page.wait_for_selector(".spnb-view", timeout=120_000)
    page.wait_for_function(f"() => ({PAINTED})(0)")
    root.scroll_into_view_if_needed()
    return root


PAINTED = """pane => {
    const canvas = document.querySelectorAll(".spnb-pane")[pane];
    const corner = [canvas.width / 2 - 40, canvas.height / 2 - 40];
    const { data } = canvas.getContext("2d").getImageData(...corner, 60, 60);
    return new Set(data.filter((_, k) => k % 4 === 0)).size > 10;
}"""
"""Whether the middle of a pane has more than a few shades: the noise of an image."""


def place(page, selector, across, down, number=0):
    """A place in an element, by shares of its width and height."""
    box = page.locator(selector).nth(number).bounding_box()
    return box["x"] + across * box["width"], box["y"] + down * box["height"]


def info(page):
    return page.inner_text(".spnb-info")


@pytest.mark.slow
def test_hover_zoom_and_scrub_in_the_view_of_a_run(lab, page):
    shown_view(lab, page, "view")
    assert page.locator(".spnb-pane").count() == 2
    page.mouse.move(*place(page, ".spnb-pane", 0.5, 0.4))
    page.wait_for_selector('.spnb-view[data-chosen="1"]')
    assert "rank 1, tile 1 of stage 0; rows 0–300, columns 300–600" in info(page)
    assert "from rank 0" in info(page)
    assert "compute" in info(page)

    told = set()  # where the events lie differs from run to run
    for step in range(100):
        page.mouse.move(*place(page, ".spnb-timeline", 0.07 + 0.0092 * step, 0.6))
        page.wait_for_selector('.spnb-view[data-chosen="4"]')
        rank, what, *figures = info(page).split("; ")
        assert rank == "rank 4"
        assert re.search(r"\d m?s from \d", "; ".join(figures))
        told.add((what.partition(":")[0], figures[0].startswith("layer ")))
    assert ("compute", True) in told
    assert told & {("between two events", False), ("done", False)}

    page.focus(".spnb-scrubber")
    for _ in range(3):
        page.keyboard.press("PageUp")
    page.wait_for_selector(".spnb-view[data-states]")
    early = page.get_attribute(".spnb-view", "data-states")
    assert len(early.split(" ")) == 6
    page.keyboard.press("End")
    page.wait_for_selector('.spnb-view[data-states="done done done done done done"]')
    page.click("text=hide states")
    page.wait_for_selector(".spnb-view:not([data-states])")
    screenshot(page, "view")

    page.focus(".spnb-pane")
    for _ in range(4):
        page.keyboard.press("+")
    for _ in range(30):
        page.keyboard.press("ArrowRight")
    page.mouse.move(*place(page, ".spnb-pane", 0.5, 0.6, 1))  # both panes show the same part
    page.wait_for_selector('.spnb-view[data-chosen="5"]')
    page.select_option(".spnb-view select", "heat")
    page.wait_for_function(
        "() => document.querySelectorAll('.spnb-caption')[1].innerText.includes('heat')"
    )
    assert "Traceback" not in page.inner_text(".jp-Notebook")


@pytest.mark.slow
def test_of_a_large_zarr_only_what_is_visible_is_read(lab, page):
    log = lab.home / "read.txt"
    shown_view(lab, page, "zoom")

    def reads():
        return [line.split() for line in log.read_text().splitlines()]

    def settled():
        """The tiles that were asked for, once there are some and no more come."""
        before, tries = None, 0
        while (before != (now := reads()) or not now) and (tries := tries + 1) < 20:
            before = now
            page.wait_for_timeout(1500)
        return [tuple(map(int, each[1:4])) for each in now]

    found = settled()
    level = int(page.get_attribute(".spnb-pane", "data-level"))
    assert level >= 4  # 16,384 pixels on less than a thousand
    assert {each[0] for each in found} <= {level, 6}
    across = -(-16384 // (256 << level))
    assert len(set(found)) <= across**2 + 1

    log.write_text("")
    x, y = place(page, ".spnb-pane", 0.5, 0.5)
    page.mouse.move(x, y)
    for _ in range(8):
        page.mouse.wheel(0, -240)
        page.wait_for_timeout(50)
    page.wait_for_selector('.spnb-pane[data-level="0"]')
    finest = {each for each in settled() if each[0] == 0}
    box = page.locator(".spnb-pane").first.bounding_box()
    most = (box["width"] / 256 + 2) * (box["height"] / 256 + 2)
    assert 0 < len(finest) <= most
    assert all(24 <= row <= 40 and 24 <= column <= 40 for _, row, column in finest)
    assert "sampled" not in page.inner_text(".spnb-caption")
    screenshot(page, "zoom")


@pytest.mark.slow
def test_tiles_change_their_state_during_a_run(lab, page):
    run_all(page, lab.address_of("live.ipynb"))
    page.wait_for_selector(".spnb-live", timeout=120_000)
    page.wait_for_function("""() => {
        const view = document.querySelector(".spnb-live");
        return view && (view.dataset.seen ?? "").split(" ").length >= 2;
    }""")
    page.wait_for_selector(".spnb-micro-batch.spnb-now")
    assert "infer Sequential" in page.inner_text(".spnb-live")
    screenshot(page, "live")
    wait_for_last(page, 300)
    assert page.locator(".spnb-live").count() == 0
    assert "Traceback" not in page.inner_text(".jp-Notebook")
