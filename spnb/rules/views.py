"""Operators that change a tensor's shape: views, permutations, new and removed dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from ..ir.axes import Axes, Dim, Factor, dim, joined, size_of
from ..ir.broadcasting import broadcast
from ..ir.node import Node
from ..ir.region import Region, Span
from .base import Direct, Local, Rule, Tensors, Weights
from .calls import invoke
from .fallback import Whole
from .registry import rule


def reshaped(axes: Axes, shape: Sequence[int]) -> Axes | None:
    """Axes after a reshape; None if the axes of the image do not fit the shape.

    Dimensions take factors in order.  A dimension that is smaller than the next factor takes the
    slower part of it, with the axis; the faster part becomes positions that are never cut::

        height 56 | width 56  ->  height 8 | 7 | width 8 | 7         windows of 7×7
        height 8 | 2 | width 8 | 2  ->  height 16 | width 16         pixel shuffle

    >>> reshaped(Axes.image((1, 3, 56, 56)), (1, 3, 8, 7, 8, 7))
    Axes(1 | 3 | axis1 8 | 7 | axis2 8 | 7)
    """
    if 0 in axes.shape:
        return None
    left = [factor for factors in axes.dims for factor in factors]
    dims: list[Dim] = []
    for size in shape:
        taken: list[Factor] = []
        while size > 1:
            if not left:
                return None
            factor = left.pop(0)
            if size % factor.size == 0:
                taken.append(factor)
                size //= factor.size
            elif factor.size % size == 0:
                taken.append(Factor(size, factor.axis))
                left.insert(0, Factor(factor.size // size))
                size = 1
            else:
                return None
        dims.append(joined(taken))
    return axes.with_dims(dims)


@dataclass(frozen=True)
class Reshape(Direct):
    """The same elements in another shape; an axis may become coarser or finer by a whole factor.

    Parameters
    ----------
    result
        Axes of the result.
    """

    any_layout = True  # and a copy is made only where there is no such view

    result: Axes

    @cached_property
    def axes(self) -> Axes:
        return self.result

    def need(self, operand: int, axis: int, span: Span) -> Span:
        n, m = self.node.operand_axes[0].extent[axis], self.axes.extent[axis]
        if n >= m:
            return (span[0] * (n // m), span[1] * (n // m))
        return (span[0] // (m // n), -(-span[1] // (m // n)))

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        pairs = zip(needs[0].spans, self.node.operand_axes[0].extent, self.axes.extent, strict=True)
        held = Region(tuple((a * m // n, b * m // n) for (a, b), n, m in pairs))
        return self.axes.piece(tensors[0].reshape(self.axes.local_shape(held)), held, region)


VIEWS = (
    "view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze",
    "_reshape_alias", "ravel", "view_as", "reshape_as",
)  # fmt: skip
"""Operators that give the same elements in another shape."""


@rule(*VIEWS)
def reshape(node: Node) -> Rule | None:
    """The rule of a view; it reads the whole operand if it would mix axes of the image.

    A view in another type shows the same bytes; types of other sizes have other positions.
    """
    if node.op == "aten.view.dtype":
        axes = node.operand_axes[0]
        return Local(node, axes) if node.shape == axes.shape else None
    found = reshaped(node.operand_axes[0], node.shape)
    return Whole(node) if found is None else Reshape(node, found)


PERMUTES = (
    "permute", "transpose", "t", "swapaxes", "swapdims", "movedim", "moveaxis", "mT", "numpy_T",
)  # fmt: skip
"""Operators that change the order of dimensions."""


def order_of(node: Node) -> list[int]:
    """For each dimension of a permutation's result, the number of the operand's dimension."""
    sizes = list(range(2, 2 + len(node.shape)))  # all different, so the result shows the order
    moved = invoke(node.op, node.bind([torch.empty(sizes, device="meta")], {}))
    return [n - 2 for n in moved.shape]


@rule(*PERMUTES)
def permute(node: Node) -> Rule | None:
    """The rule of a permutation; the axes of the image move with their dimensions."""
    axes = node.operand_axes[0]
    return Local(node, axes.with_dims([axes.dims[k] for k in order_of(node)]))


@dataclass(frozen=True)
class Expand(Rule):
    """Copies along dimensions of size 1; in space, each tile makes its own copies."""

    @cached_property
    def axes(self) -> Axes:
        shape, operand = self.node.shape, self.node.operand_axes[0]
        found = broadcast(shape, [operand], operand.rank)
        dims, taken = list(found.dims), set(found.present)
        if len(shape) == operand.rank + 1:  # the shape of an image: new positions get its axes
            before = len(shape) - len(operand.dims)
            for number in (0, *range(2, len(shape))):
                axis = max(0, number - 1)
                single = number < before or size_of(operand.dims[number - before]) == 1
                if single and axis not in taken:
                    dims[number] = dim(shape[number], axis)
        return found.with_dims(dims)

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        return tensors[0].expand(self.axes.local_shape(region))


@rule("expand")
def expand(node: Node) -> Rule | None:
    """Copies along dimensions of size 1 (torch.Tensor.expand)."""
    return Expand(node)


@dataclass(frozen=True)
class Repeat(Expand):
    """Copies along dimensions of size 1, and of channels."""

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        local, x = self.axes.local_shape(region), tensors[0]
        times = list(self.node.args["repeats"])
        x = x.reshape((1,) * (len(times) - x.ndim) + tuple(x.shape))
        grown = [r > 1 and n == 1 for r, n in zip(times, x.shape, strict=True)]
        sizes = zip(times, grown, local, strict=True)
        return x.repeat([n if is_grown else r for r, is_grown, n in sizes])
