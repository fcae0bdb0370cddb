"""The widget of a run that is under way: what each rank does now, and did so far."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import anywidget
import traitlets

from ..display.paint import painted, png
from ..io.nodata import unrepeated
from ..io.sources import Source, SyntheticSource
from ..planner.plan import Plan
from .activity_grid import LIVE, ActivityGrid, latest
from .layer import Layer
from .run_view import HERE, script
from .scene import scene_of

SIDE = 400
"""Most pixels along a side of the image."""

EVERY = 0.25
"""Seconds between two frames."""

PATIENCE = 1.0
"""Seconds after which the widget appears, as a bar does, if the run goes on for as long again.

To make it takes some 0.05 s of a core, which the ranks may need.
"""


class LiveView(anywidget.AnyWidget):
    """Tiles over the image in the colour of what ranks do, a row of time for each rank.

    Parameters
    ----------
    plan
        The plan that is run.
    source
        The image.
    title
        What is run.
    """

    _esm = script("parts.js", "live_view.js")
    _css = HERE / "view.css"
    scene = traitlets.Dict().tag(sync=True)
    image = traitlets.Bytes().tag(sync=True)
    title = traitlets.Unicode().tag(sync=True)
    frame = traitlets.Dict().tag(sync=True)

    def __init__(self, plan: Plan, source: Source | None, title: str):
        scene = scene_of(plan)
        for stage in scene["stages"]:
            for tile in stage["tiles"]:
                tile["halo"], tile["need"] = [], None  # hovering is for the run afterwards
        scene |= {"kinds": list(LIVE), "colours": list(LIVE.values())}
        picture = b"" if source is None else _picture(source)
        super().__init__(scene=scene, image=picture, title=title, frame={})


def _picture(source: Source) -> bytes:
    """The image as a PNG; empty for noise, which would hide the tiles, and takes long to make."""
    if isinstance(unrepeated(source), SyntheticSource):
        return b""
    layer = Layer.of_image(source)
    return png(painted(layer.pyramid.whole(SIDE).pixels, "colours", layer.span))


class LiveRun:
    """Shows a run or an epoch while it is under way, from what its ranks publish.

    Parameters
    ----------
    plan, source, title
        As of `LiveView`.
    of
        What figures are of: ``{"run": 3}`` or ``{"epoch": 0}``.
    steps
        Steps of an epoch.
    """

    def __init__(
        self, plan: Plan, source: Source | None, title: str, of: Mapping[str, int], steps: int = 1
    ):
        self._plan, self._source, self._title, self._of = plan, source, title, of
        self._steps, self._first = steps, 0
        self._grid = ActivityGrid(plan.replicas.num_ranks)
        self._start = self._shown_at = time.monotonic()
        self.view: LiveView | None = None

    def update(self, published: Sequence[Mapping[str, Any]]) -> None:
        """Take in the last figures of each rank, and show them if it is time."""
        figures = latest(published, self._of)
        for rank, each in enumerate(figures):
            if each:
                self._grid.add(rank, each)
        now = time.monotonic()
        if now - self._start < PATIENCE or now - self._shown_at < EVERY:
            return
        self._shown_at = now
        frame = self.frame(figures)
        if self.view is None:
            if now - self._start < 2 * PATIENCE and (frame["left"] or PATIENCE) < PATIENCE:
                return
            from IPython.display import display

            self.view = LiveView(self._plan, self._source, self._title)
            display(self.view)
        self.view.frame = frame

    def frame(self, figures: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What the script draws: what each rank does now and did so far, and the time left."""
        share = sum(map(self._share, figures)) / len(figures)
        elapsed = time.monotonic() - self._start
        return {
            "now": [self._kind(each) for each in figures],
            "stage": [each.get("stage", -1) for each in figures],
            "micro_batch": [each.get("micro_batch", 0) for each in figures],
            "share": share,
            "elapsed": elapsed,
            "left": elapsed * (1 - share) / share if share > 0.02 else None,
            "step": self._grid.step,
            "rows": [self._grid.shares(rank) for rank in range(len(figures))],
        }

    def _share(self, figures: Mapping[str, Any]) -> float:
        """How much of its work a rank has done."""
        if "steps" in figures:
            return figures["steps"] / self._steps
        return figures.get("share", 0.0)

    def _kind(self, figures: Mapping[str, Any]) -> str:
        if not figures:
            return "wait"  # it has not begun
        return "done" if self._share(figures) >= 1 else figures["now"]

    def close(self) -> None:
        """Remove the widget."""
        if self.view is not None:
            self.view.close()
