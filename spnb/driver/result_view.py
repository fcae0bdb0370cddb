"""The output of a run as a layer of its widget, read from the ranks by region."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..io.strided import Strided
from ..ir.axes import Axes
from ..ir.graph import Graph
from ..ir.region import Span
from ..runtime.output_samples import OutputSample, OutputWindow, joined

if TYPE_CHECKING:
    from ..viewer.layer import Layer

Sample = Callable[[OutputWindow], list[OutputSample]]
"""Takes a part of an output from the ranks that have it."""


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

    def read(window: tuple[Span, Span], step: int, most: int | None) -> Strided:
        wanted = OutputWindow(value, *window, step)
        return Strided(joined(sample(wanted), wanted, channels), exact=True)

    return Layer(name, Pyramid(height, width, read), styles)
