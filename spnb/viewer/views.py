"""Makes the widget of a plan or of a run, and the picture that stands for it without a kernel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..display import plots
from ..display.paint import painted
from ..planner.plan import Plan
from .layer import Layer
from .run_view import RunView
from .scene import scene_of

if TYPE_CHECKING:
    import pandas as pd

STILL = 700
"""Most pixels along a side of an image in the picture for notebooks without a kernel."""


def view_of(
    plan: Plan,
    layers: Mapping[str, Layer],
    timings: pd.DataFrame | None = None,
    note: str = "",
) -> RunView:
    """Return the widget of a plan, or of a run of it.

    Parameters
    ----------
    plan
        A plan for images of two axes.
    layers
        The image, and the output if it is to be shown.
    timings
        The events of the run, if there was one.
    note
        A line of text under the pictures.

    Raises
    ------
    ValueError
        If the images have other than two axes.
    """
    scene = scene_of(plan, timings)
    tiled = [stage for stage in scene["stages"] if stage["tiled"]] or scene["stages"][:1]
    tiles = [(tile["rank"], tile["region"]) for tile in tiled[0]["tiles"]]

    def still() -> bytes:
        height, width = plan.extent
        panes = [_pane(layer) for layer in layers.values()]
        return plots.run_view(panes, (height, width), tiles, timings)

    return RunView(scene, layers, note, still)


def _pane(layer: Layer) -> plots.Pane:
    style, found = layer.known_styles[0], layer.whole
    if found.exact:  # else it would take long to read more of it
        found = layer.pyramid.whole(STILL)
    words = [layer.name, *([style] if len(layer.known_styles) > 1 else [])]
    words += [] if found.exact else ["sampled"]
    return plots.Pane(", ".join(words), painted(found.pixels, style, layer.span))
