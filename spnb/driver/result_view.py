"""The output of a run as a layer of its widget, read from the ranks by region."""

from __future__ import annotations

import math
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
    """Whether an output is a batch of images: ``(batch, channels, rows, columns)``.

    A map ``(batch, rows, columns)`` is one too: of classes, as ``argmax(1)`` gives them.
    """
    shape = graph.shape(value)
    if len(shape) not in (3, 4):
        return False
    image = Axes.image(shape if len(shape) == 4 else (shape[0], 1, *shape[1:]))
    if len(shape) == 3:
        image = image.with_dims([image.dims[0], *image.dims[2:]])
    return graph.axes[value] == image


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

    _, *further, height, width = graph.shape(value)
    channels = math.prod(further)  # 1 for a map

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
