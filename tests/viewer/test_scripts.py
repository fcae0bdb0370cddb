"""Scripts and styles of the widgets are in the package, and reach for nothing outside of it."""

import tomllib

from guide_pages import ROOT

from spnb.viewer.live_view import LiveView
from spnb.viewer.run_view import HERE, RunView

FILES = [path for path in HERE.iterdir() if path.suffix in (".js", ".css")]


def test_a_wheel_has_them():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = settings["tool"]["setuptools"]["package-data"]["spnb.viewer"]
    assert len(FILES) >= 4
    assert all(any(path.match(pattern) for pattern in patterns) for path in FILES)


def test_they_load_nothing_from_a_network():
    texts = [path.read_text() for path in FILES]
    assert not [text for text in texts if "://" in text or "import " in text or "@import" in text]


def test_each_widget_has_the_shared_parts_and_one_render():
    for widget in (RunView, LiveView):
        assert widget._esm.count("class Pane ") == 1
        assert widget._esm.count("export default { render };") == 1
