"""Where the positions of an output lie in the image: the scale and the shift between their grids.

Pixels cover the image, so the pixel ``k`` covers ``k`` to ``k + 1``; the position ``k`` of an
output covers ``shift + k * scale`` to ``shift + (k + 1) * scale``.  With a stride of 2 the scale is
2, and a network without padding has a shift::

    image      │0│1│2│3│4│5│          image      │0│1│2│3│4│5│
    stride 2   │ 0 │ 1 │ 2 │          no padding   │0│1│2│3│      shift 1, scale 1
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..ir.graph import Graph
from ..ir.region import Region, Span
from ..planner.needs import OperandRegions


@dataclass(frozen=True)
class Alignment:
    """The place of an output's grid in the image, along one axis."""

    scale: float = 1.0
    shift: float = 0.0


def alignment(graph: Graph, value: str) -> tuple[Alignment, ...] | None:
    """Find the place of an output's grid in the first input.

    Parameters
    ----------
    graph
        The network.
    value
        Name of the output.

    Returns
    -------
    tuple of Alignment or None
        One for each spatial axis.  None if the grid has no place: the sizes have no whole ratio, or
        the positions read other parts of the image than their place.
    """
    image = next(iter(graph.inputs))
    sizes, counts = graph.extent(image)[1:], graph.extent(value)[1:]
    if len(sizes) != len(counts):
        return None
    # Two positions, a quarter of the output apart: what they read is far from the image's edges.
    pair = [tuple(n // 2 + sign * (n // 8) for n in counts) for sign in (-1, 1)]
    pair = [tuple(min(k, n - 1) for k, n in zip(each, counts, strict=True)) for each in pair]
    fields = [receptive_field(graph, value, image, each) for each in pair]
    found = []
    for axis, (size, count) in enumerate(zip(sizes, counts, strict=True)):
        read = [None if field is None else field.spans[1 + axis] for field in fields]
        along = _along(size, count, [each[axis] for each in pair], read)
        if along is None:
            return None
        found.append(along)
    return tuple(found)


def _along(
    size: int, count: int, positions: Sequence[int], read: Sequence[Span | None]
) -> Alignment | None:
    """The place of a grid along an axis, by its length and by what two of its positions read."""
    if size == count:
        return Alignment()
    scales = _whole_ratios(size, count)
    inside = [span for span in read if span is not None and span[0] > 0 and span[1] < size]
    apart = positions[-1] - positions[0]
    if len(inside) < 2 or not apart:
        return Alignment(scales[0]) if len(scales) == 1 else None
    first, last = (sum(span) / 2 for span in inside)
    pace = (last - first) / apart
    # In a network with inner strides, neighbours read the same or leap: the pace is a mean.
    nearest = min(scales, key=lambda scale: abs(scale - pace), default=None)
    if nearest is not None and abs(nearest - pace) <= nearest / 4:
        return Alignment(nearest)
    return Alignment(1.0, first - positions[0] - 0.5) if pace == 1 else None


def _whole_ratios(size: int, count: int) -> list[float]:
    """The strides, or one over the enlargement, that make so many positions of a size."""
    if count > size:
        return [] if count % size else [size / count]
    near = range(size // (count + 1), size // count + 2)
    return [float(n) for n in near if n > 1 and count in (size // n, math.ceil(size / n))]


def receptive_field(
    graph: Graph, value: str, image: str, position: tuple[int, ...]
) -> Region | None:
    """The region of an input that one position of an output reads; None if it reads nothing of it.

    Parameters
    ----------
    graph
        The network.
    value
        Name of the output.
    image
        Name of the input.
    position
        Of the first image, along the spatial axes.
    """
    read = OperandRegions()
    needs = {value: Region(((0, 1), *((k, k + 1) for k in position)))}
    for node in reversed(graph.nodes):
        if node.name not in needs:
            continue
        for operand, need in zip(node.operands, read.read_by(node, needs[node.name]), strict=True):
            need &= Region.whole(graph.extent(operand))
            needs[operand] = need | needs[operand] if operand in needs else need
    return needs.get(image)
