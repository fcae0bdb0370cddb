"""The widget of a plan or a run: image and output with tiles, a timeline, and a scrubber."""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from ..display.paint import STYLES
from .layer import Layer
from .pyramid import PIECES

HERE = Path(__file__).parent


def script(*names: str) -> str:
    """The text of scripts beside this file, one after another."""
    return "\n".join((HERE / name).read_text("utf-8") for name in names)


class RunView(anywidget.AnyWidget):
    """Image and output side by side, with tiles, halos and the events of a run.

    The script asks for the tiles of the pyramids that are visible, and is sent each as PNG.

    Parameters
    ----------
    scene
        As `spnb.viewer.scene.scene_of` returns it.
    layers
        ``"image"`` and, if there is one to show, ``"output"``.
    note
        A line of text under the pictures.
    still
        Draws the same as a PNG, for where no kernel runs.

    Attributes
    ----------
    read
        The tiles that were asked for: layer, level, row and column.
    """

    _esm = script("parts.js", "run_view.js")
    _css = HERE / "view.css"
    scene = traitlets.Dict().tag(sync=True)
    layers = traitlets.Dict().tag(sync=True)
    note = traitlets.Unicode().tag(sync=True)
    pieces = traitlets.Int(PIECES).tag(sync=True)

    def __init__(
        self,
        scene: Mapping[str, Any],
        layers: Mapping[str, Layer],
        note: str = "",
        still: Callable[[], bytes] | None = None,
    ):
        self._layers, self._still = dict(layers), still
        self.read: list[tuple[str, int, int, int]] = []
        figures = {name: layer.figures for name, layer in layers.items()}
        super().__init__(scene=dict(scene), layers=figures, note=note)
        self.on_msg(self._answer)

    def __repr__(self) -> str:
        return f"View of {', '.join(layer.name for layer in self._layers.values())}. {self.note}"

    def _answer(self, _: Any, asked: Mapping[str, Any], buffers: Any) -> None:
        """Send a tile, or the reason why there is none."""
        try:
            level, row, column, most = (int(asked[k]) for k in ("level", "row", "column", "most"))
            layer, style = str(asked["layer"]), str(asked["style"])
            start = time.perf_counter()
            png, exact = self.tile(layer, level, row, column, style, most)
        except Exception as error:  # a file may be gone, or its kernel's ranks: said in the picture
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            self.send({**asked, "failed": reason})
        else:
            self.send({**asked, "exact": exact, "seconds": time.perf_counter() - start}, [png])

    def tile(
        self, layer: str, level: int, row: int, column: int, style: str = "", most: int = PIECES
    ) -> tuple[bytes, bool]:
        """Return a tile as PNG, and whether every pixel of it was read.

        Parameters
        ----------
        layer
            ``"image"`` or ``"output"``.
        level, row, column, style, most
            As of `spnb.viewer.layer.Layer.tile`.
        """
        self.read.append((layer, level, row, column))
        return self._layers[layer].tile(level, row, column, style, most)

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """The widget, and beside it a picture for notebooks without a kernel."""
        found = super()._repr_mimebundle_(**kwargs)
        if found is None or self._still is None:
            return found
        data, metadata = found
        return {**data, "image/png": b64encode(self._still()).decode()}, metadata


def require_style(style: str | None) -> tuple[str, ...]:
    """The styles of a layer that a user asked for one of; none if none was asked for.

    Raises
    ------
    ValueError
        If there is no such style.
    """
    if style is None:
        return ()
    if style not in STYLES:
        raise ValueError(f"there is no overlay {style!r}: choose one of {', '.join(STYLES)}")
    return (style, *(each for each in STYLES if each != style))
