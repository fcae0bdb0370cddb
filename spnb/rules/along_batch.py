"""Operators along the batch: slices of it, concatenations, scans.

Each position of a tile reads the same position of other images, so no tile needs another.  A batch
of which ranks hold a part at a time (micro-batches, local DP) is refused for such calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ..ir.axes import Axes, dim
from ..ir.node import Node
from .fallback import Whole


@dataclass(frozen=True)
class AlongBatch(Whole):
    """An operator that reads all images of the batch, at each position by itself.

    Parameters
    ----------
    result
        Where the axes of the image lie in the result.
    """

    result: Axes

    @cached_property
    def axes(self) -> Axes:
        return self.result

    def gathers(self, operand: int, axis: int) -> bool:
        return axis == 0


def along_batch(node: Node, number: int) -> AlongBatch | None:
    """The rule of an operator along a dimension, if it is the first, and holds only the batch.

    Parameters
    ----------
    node
        The call.
    number
        The dimension.

    Returns
    -------
    AlongBatch or None
        None if operands are not cut alike, or some are constants.
    """
    first, *others = node.operand_axes
    alike = all(axes.dims[1:] == first.dims[1:] for axes in others)
    plain = all(axes.dims[0] == dim(axes.shape[0], 0) for axes in node.operand_axes)
    if number or node.weights or not (alike and plain):
        return None
    if len(node.shape) < len(first.dims):
        return AlongBatch(node, first.with_dims(first.dims[1:]))
    return AlongBatch(node, first.with_dims([dim(node.shape[0], 0), *first.dims[1:]]))
