"""Operators that look values up: in a table of weights, or along a dimension that is never cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ..ir.axes import Axes, axes_in, dim
from ..ir.node import Node, Ref, Weight
from .along_batch import along_batch
from .base import Local, Rule
from .fallback import AlongDimensions, WholeImages
from .merged.scatters import scattered
from .registry import rule


@rule("embedding")
def embedding(node: Node) -> Rule | None:
    """The rule of a table's rows, by number (torch.nn.functional.embedding)."""
    return _rows_of(node, node.args["weight"], node.args["indices"])


@rule("bucketize", "searchsorted")
def sorted_places(node: Node) -> Rule | None:
    """The rule of places in one sorted table, which is the same at all positions."""
    names = ("self", "boundaries") if node.kind == "bucketize" else ("self", "sorted_sequence")
    values, table = (node.args[name] for name in names)
    one_table = isinstance(table, Weight) and len(table.shape) == 1
    return Local(node, node.operand_axes[0]) if one_table and isinstance(values, Ref) else None


def row_lookup(node: Node) -> Rule | None:
    """The rule of ``table[numbers]``, where the table is a weight; None for other indices."""
    indices = node.args["indices"]
    return _rows_of(node, node.args["self"], indices[0]) if len(indices) == 1 else None


def _rows_of(node: Node, table: object, numbers: object) -> Rule | None:
    if not isinstance(table, Weight) or not isinstance(numbers, Ref) or len(node.operands) != 1:
        return None
    axes = node.operand_axes[0]
    if node.shape != (*axes.shape, *table.shape[1:]):
        return None
    return Local(node, axes.with_dims([*axes.dims, *map(dim, table.shape[1:])]))


@rule("gather", "scatter", "scatter_add", "scatter_reduce", "index_add", "index_reduce",
      "index_copy", "index_fill")  # fmt: skip
def along_channels(node: Node) -> Rule | None:
    """The rule of reading, or writing, at places along one dimension.

    Each tile does it by itself where that dimension is not cut, and all others are cut alike.
    """
    axes = node.operand_axes
    if (into_bins := scattered(node)) is not None:
        return into_bins
    number = node.args["dim"] % max(1, len(axes[0].dims))
    if node.kind == "gather" and isinstance(table := node.args["self"], Weight):
        if len(table.shape) == 1:
            return Local(node, axes[0])
        return None if axes_in(axes[0].dims[number]) else WithWeight(node)
    others = [[d for k, d in enumerate(each.dims) if k != number] for each in axes]
    alike = all(each == others[0] for each in others)
    uncut = alike and not any(axes_in(each.dims[number]) for each in axes)
    result = Axes.uncut(node.shape, axes[0].rank)
    dims = [*axes[0].dims[:number], *result.dims[number : number + 1], *axes[0].dims[number + 1 :]]
    weights = [weight.shape for weight in node.weights if len(weight.shape) > 1]
    if uncut and weights and all(_differs_in(shape, node.shape, number) for shape in weights):
        return WithWeight(node)
    if uncut and not weights and node.shape == tuple(axes[0].with_dims(dims).shape):
        return Local(node, axes[0].with_dims(dims))
    if node.kind != "gather" or not number:
        return None
    if alike and not weights and not axes_in(axes[0].dims[number]):
        return Local(node, axes[1])  # each position reads one of a few numbers
    if not alike or weights or 0 in axes[0].axes_of(number):
        return WholeImages(node)
    dims[number] = axes[1].dims[number]
    return AlongDimensions(node, axes[0].with_dims(dims), (number,))


def _differs_in(shape: Sequence[int], other: Sequence[int], number: int) -> bool:
    """Whether shapes are equal but in one dimension."""
    pairs = enumerate(zip(shape, other, strict=False))
    return len(shape) == len(other) and all(m == n for k, (m, n) in pairs if k != number)


@dataclass(frozen=True)
class WithWeight(Rule):
    """Reading from a weight, or writing into one, at places along a dimension that is never cut.

    Class weights are read so; the codes of a vector quantizer are written into zeros.
    """

    @property
    def _number(self) -> int:
        return int(self.node.args["dim"]) % len(self.node.shape)

    @cached_property
    def axes(self) -> Axes:
        return self.node.operand_axes[0].resized(self._number, self.node.shape[self._number])

    def against(self, weight: Weight) -> Axes | None:
        same_rank = len(weight.shape) == len(self.node.shape)
        if not same_rank:
            return None
        return self.axes.resized(self._number, weight.shape[self._number])


@rule("kthvalue", "mode", "median", "nanmedian")
def ranked(node: Node) -> Rule | None:
    """The rule of the value at a rank along one dimension; it has two results."""
    axes, number = node.operand_axes[0], node.args.get("dim")
    if number is None:
        return None
    number %= max(1, len(axes.dims))
    kept = [dim(1)] if node.args["keepdim"] else []
    result = axes.with_dims([*axes.dims[:number], *kept, *axes.dims[number + 1 :]])
    if 0 in axes.axes_of(number):
        return along_batch(node, number)
    cut = axes.axes_of(number)
    return AlongDimensions(node, result, (number,)) if cut else Local(node, result)
