"""The output of a run as a layer of its widget, read from the ranks by region."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ..io.strided import Strided
from ..ir.axes import Axes
from ..ir.graph import Graph
from ..ir.region import Span
from ..runtime.output_samples import OutputSample, OutputWindow, joined

if TYPE_CHECKING:
    from ..viewer.layer import Layer

Sample = Callable[[OutputWindow], list[OutputSample]]
"""Takes a part of an output from the ranks that have it."""


SMALL = 2**26
"""Bytes of an output that is taken from the ranks at once, so that it outlives them."""


def is_picture(graph: Graph, value: str) -> bool:
    """Whether an output is a batch of images: ``(batch, channels, rows, columns)``."""
    shape = graph.shape(value)
    return len(shape) == 4 and graph.axes[value] == Axes.image(shape)


def output_layer(
    graph: Graph, value: str, name: str, sample: Sample, styles: tuple[str, ...]
) -> Layer:
    """The layer of an output that is a picture.

    Parameters
    ----------
    graph
        The network.
    value
        The output's name in the graph.
    name
        Its title.
    sample
        Takes parts of it from the ranks.
    styles
        As of `spnb.viewer.layer.Layer`.
    """
    from ..viewer.layer import Layer  # only a notebook needs widgets
    from ..viewer.pyramid import Pyramid

    _, channels, height, width = graph.shape(value)

    def taken(rows: Span, columns: Span, step: int) -> np.ndarray:
        window = OutputWindow(value, rows, columns, step)
        return joined(sample(window), window, channels)

    size = channels * height * width * graph.dtype_of(value).itemsize
    whole = taken((0, height), (0, width), 1) if size <= SMALL else None

    def read(window: tuple[Span, Span], step: int, most: int | None) -> Strided:
        rows, columns = (slice(*span, step) for span in window)
        found = taken(*window, step) if whole is None else whole[:, rows, columns]
        return Strided(found, exact=True)

    return Layer(name, Pyramid(height, width, read), styles)
