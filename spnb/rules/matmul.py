"""Products that sum over a shared dimension: linear layers and matrix products."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..ir.axes import Axes, Dim, axes_in, dim, size_of
from ..ir.broadcasting import fitted
from ..ir.node import Node, Ref, Weight, leaves
from ..ir.region import Region
from ..ir.tiling import Tiling
from .base import Rule, Tensors, Weights
from .calls import invoke
from .fallback import elements_of_tile, whole_axes
from .merged.tile_products import ProductTargets, product_of_tiles
from .registry import rule

MERGING = ("matmul", "bmm", "mm", "einsum", "linear")
"""Products without a further summand but a bias, so that those of tiles add up."""

Labels = tuple[str, ...]
"""A name for each dimension; the same name in two tensors is the same dimension."""


@dataclass(frozen=True)
class Product(Rule):
    """A product that sums over the dimensions that the result does not have.

    A dimension of the result is cut like that of the first operand that has it.  Dimensions that
    are summed must be whole; so must dimensions that another operand has cut in another way, such
    as the keys and values of attention.

    Parameters
    ----------
    labels
        Labels of each operand's dimensions, in order.
    weight_labels
        Labels of each weight's dimensions, by name.
    result_labels
        Labels of the result's dimensions.
    """

    labels: tuple[Labels, ...]
    weight_labels: Mapping[str, Labels]
    result_labels: Labels

    @cached_property
    def axes(self) -> Axes:
        dims: dict[str, Dim] = {}
        taken: set[int] = set()
        operands = list(zip(self.labels, self.node.operand_axes, strict=True))
        for label, size in zip(self.result_labels, self.node.shape, strict=True):
            dims[label] = dim(size)
            for labels, axes in operands:
                factors = axes.dims[labels.index(label)] if label in labels else ()
                found = set(axes_in(factors))
                if found and size_of(factors) == size and not found & taken:
                    dims[label], taken = factors, taken | found
                    break
        rank = self.node.axes.rank
        return Axes(tuple(dims[label] for label in self.result_labels), rank)

    def _target(self, labels: Labels, axes: Axes) -> Axes:
        """Axes in which an operand's dimensions are cut like the result's."""
        there = dict(zip(self.result_labels, self.axes.dims, strict=True))
        pairs = zip(labels, axes.dims, strict=True)
        return axes.with_dims(
            [
                there[label] if label in there and size_of(d) > 1 else dim(size_of(d))
                for label, d in pairs
            ]
        )

    def against(self, weight: Weight) -> Axes | None:
        labels = self.weight_labels.get(weight.name)
        if labels is None:
            return None
        return self._target(labels, Axes.uncut(weight.shape, self.axes.rank))

    @cached_property
    def _targets(self) -> tuple[Axes, ...]:
        return tuple(map(self._target, self.labels, self.node.operand_axes))

    def cut_with_result(self, operand: int) -> Axes:
        """The axes of an operand, if each dimension were cut like the result's."""
        return self._targets[operand]

    def gathers(self, operand: int, axis: int) -> bool:
        axes, target = self.node.operand_axes[operand], self._targets[operand]
        pairs = zip(axes.dims, target.dims, strict=True)
        return any(axis in axes_in(mine) and mine != there for mine, there in pairs)

    def lower(self, tiling: Tiling) -> Sequence[Node]:
        """Where the sum runs over positions that tiles share out, each tile sums its own."""
        summed = self._summed(tiling)
        if not summed:
            return (self.node,)
        weights = {
            name: self._cut_like(labels, Axes.uncut(shape, self.axes.rank), summed)
            for name, labels, shape in (
                (w.name, self.weight_labels[w.name], w.shape)
                for w in self.node.weights
                if w.name in self.weight_labels
            )
        }
        operands = tuple(
            self._cut_like(labels, axes, summed)
            for labels, axes in zip(self.labels, self.node.operand_axes, strict=True)
        )
        cut = [a for a in _axes_of(summed.values()) if tiling.grid[a] > 1]
        return product_of_tiles(
            self.node, ProductTargets(operands, weights, self.axes), sorted(cut), tiling
        )

    def _summed(self, tiling: Tiling) -> dict[str, Dim]:
        """The axes in the summed dimensions that a grid cuts; empty if they do not let it."""
        found: dict[str, Dim] = {}
        for labels, axes in zip(self.labels, self.node.operand_axes, strict=True):
            for label, factors in zip(labels, axes.dims, strict=True):
                if label in self.result_labels or not any(
                    tiling.grid[a] > 1 for a in axes_in(factors)
                ):
                    continue
                if found.setdefault(label, factors) != factors:
                    return {}
        axes_summed = _axes_of(found.values())
        alone = len(set(axes_summed)) == len(axes_summed) and 0 not in axes_summed
        free = not set(axes_summed) & set(self.axes.present)
        dtype = self.node.dtype
        fits = self.node.kind in MERGING and (dtype.is_floating_point or dtype.is_complex)
        small = self._few_are_whole(axes_summed, tiling)
        return found if alone and free and fits and small else {}

    def _few_are_whole(self, summed: Collection[int], tiling: Tiling) -> bool:
        """Whether a tile needs nothing whole, besides the sum, that is larger than its result."""
        result = elements_of_tile(self.axes, tiling)
        for k, axes in enumerate(self.node.operand_axes):
            whole = [a for a in whole_axes(self, k, tiling) if a not in summed]
            if tiling.grid[0] > 1 and self.gathers(k, 0):
                return False
            if whole and elements_of_tile(axes, tiling, whole) > result:
                return False
        return True

    def _cut_like(self, labels: Labels, axes: Axes, summed: Mapping[str, Dim]) -> Axes:
        """Axes in which a tensor's dimensions are cut like the result's, and like the sum's."""
        target = self._target(labels, axes)
        pairs = zip(labels, target.dims, strict=True)
        return target.with_dims([summed.get(label, d) for label, d in pairs])

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        operands = [
            fitted(tensor, axes, self._target(labels, axes), region)
            for tensor, axes, labels in zip(
                tensors, self.node.operand_axes, self.labels, strict=True
            )
        ]
        local = {w.name: self._fitted_weight(w, weights, region) for w in self.node.weights}
        return invoke(self.node.op, self.node.bind(operands, local))


def _axes_of(dims: Iterable[Dim]) -> list[int]:
    """The axes in some dimensions, in order."""
    return [axis for factors in dims for axis in axes_in(factors)]


def product(
    node: Node,
    labels: Sequence[Labels | None],
    result: Labels,
    kind: type[Product] = Product,
) -> Product:
    """The rule of a product, from the labels of its tensors in the order of its arguments."""
    tensors = [leaf for leaf in leaves(node.args) if isinstance(leaf, (Ref, Weight))]
    pairs = list(zip(tensors, labels, strict=True))
    operands = tuple(names or () for tensor, names in pairs if isinstance(tensor, Ref))
    others = {tensor.name: names for tensor, names in pairs if isinstance(tensor, Weight) and names}
    return kind(node, operands, others, result)


def ranks_of(node: Node) -> list[int]:
    """Number of dimensions of each tensor among the arguments, in order."""
    axes = iter(node.operand_axes)
    tensors = (leaf for leaf in leaves(node.args) if isinstance(leaf, (Ref, Weight)))
    return [len(next(axes).dims) if isinstance(t, Ref) else len(t.shape) for t in tensors]


def batch_labels(count: int) -> Labels:
    """Labels of leading dimensions, which are aligned at their end."""
    return tuple(f"batch{k}" for k in range(count, 0, -1))


@rule("linear")
def linear(node: Node) -> Rule | None:
    """A product over the last dimension (torch.nn.Linear)."""
    rank = ranks_of(node)[0]
    before = batch_labels(rank - 1)
    labels: list[Labels | None] = [(*before, "in"), ("out", "in"), ("out",)]
    return product(node, labels[: len(ranks_of(node))], (*before, "out"))


@rule("bilinear")
def bilinear(node: Node) -> Rule | None:
    """A product of two operands at each position, and of a weight (torch.nn.Bilinear)."""
    ranks = ranks_of(node)
    before = batch_labels(ranks[0] - 1)
    labels: list[Labels | None] = [(*before, "in1"), (*before, "in2"), ("out", "in1", "in2")]
    return product(node, [*labels, ("out",)][: len(ranks)], (*before, "out"))


@rule("matmul", "bmm", "mm")
def matmul(node: Node) -> Rule | None:
    """A matrix product, with leading dimensions that are broadcast (torch.matmul)."""
    a, b = ranks_of(node)
    if min(a, b) < 2:
        return None
    labels = ((*batch_labels(a - 2), "row", "sum"), (*batch_labels(b - 2), "sum", "column"))
    return product(node, labels, (*batch_labels(max(a, b) - 2), "row", "column"))


@rule("addmm", "baddbmm")
def added_matmul(node: Node) -> Rule | None:
    """A matrix product, and a sum (torch.addmm)."""
    ranks = ranks_of(node)
    batch = batch_labels(ranks[1] - 2)
    result = (*batch, "row", "column")
    labels = (result[-ranks[0] :], (*batch, "row", "sum"), (*batch, "sum", "column"))
    return product(node, labels, result)


@rule("einsum")
def einsum(node: Node) -> Rule | None:
    """Any product of labelled dimensions (torch.einsum)."""
    given, arrow, result = node.args["equation"].replace(" ", "").partition("->")
    if not arrow or "..." in given:
        return None
    terms = [tuple(term) for term in given.split(",")]
    if any(len(set(term)) < len(term) for term in terms):
        return None  # a diagonal
    return product(node, terms, tuple(result))
