"""Sums, means and extremes of positions that have the same number, such as those of a superpixel.

Each position of the image names one of a few bins.  Each tile reduces its own positions into all
bins, and the bins of tiles are merged::

    numbers   0 0 1│1 2 2        a tile's bins: of x, the sums of positions with number 0, 1 and 2
    x         3 4 5│6 7 8        tile 0: 7, 5, 0      tile 1: 0, 6, 15      merged: 7, 11, 15
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from ...ir.axes import Axes, axes_in, dim
from ...ir.broadcasting import fitted
from ...ir.node import Node, Ref, Weight
from ...ir.region import Region, Span
from ...ir.tiling import Tiling
from ...kernels.sum_types import precise
from ..base import Direct, Tensors, Weights
from ..calls import invoke
from ..registry import rule
from .merging import Partial, combined, cut_axes, of_each_tile

STATISTIC = {"sum": "counted", "mean": "counted", "amax": "largest", "amin": "smallest"}
"""By reduction, the figures of a bin, a key of `spnb.rules.merged.statistics.STATISTICS`."""

LEAST_SHARED = 2
"""Tiles hold all bins if there are at least so many times as many positions as bins."""


@dataclass(frozen=True)
class Scattered(Direct):
    """A reduction of positions into bins that are not cut.

    Parameters
    ----------
    number
        The dimension of the bins, which has positions in the operands.
    tensors
        By argument, the axes of its tensor: ``self``, ``index``, and ``src`` or ``source``.
    """

    number: int
    tensors: Mapping[str, Axes]

    @cached_property
    def axes(self) -> Axes:
        positions = self.tensors[_source(self.node)]
        dims = [*positions.dims]
        dims[self.number] = dim(self.node.shape[self.number])
        return positions.with_dims(dims)

    def gathers(self, operand: int, axis: int) -> bool:
        """Whether an axis is among the positions that are reduced."""
        return axis in self.tensors[_source(self.node)].axes_of(self.number)

    def need(self, operand: int, axis: int, span: Span) -> Span:
        whole = (0, self.node.operand_axes[operand].extent[axis])
        return whole if self.gathers(operand, axis) else span

    def against(self, weight: Weight) -> Axes | None:
        if weight == self.node.args["self"]:
            return self.axes
        name = "index" if weight == self.node.args["index"] else _source(self.node)
        return self.tensors[name] if len(weight.shape) > 1 else None

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        whole = Region.whole(self.tensors[_source(self.node)].extent)
        reduced = self.tensors[_source(self.node)].axes_of(self.number)
        read = Region(
            tuple(whole.spans[a] if a in reduced else s for a, s in enumerate(region.spans))
        )
        local = {w.name: self._fitted_weight(w, weights, read) for w in self.node.weights}
        return invoke(self.node.op, self.node.bind(tensors, local))

    def lower(self, tiling: Tiling) -> Sequence[Node]:
        """Each tile reduces its own positions; the bins of tiles are merged."""
        node, number, positions = self.node, self.number, self.tensors[_source(self.node)]
        cut = cut_axes(positions, [number], tiling)
        few = LEAST_SHARED * node.shape[number] <= positions.shape[number]
        if not cut or not few or not node.dtype.is_floating_point:
            return (node,)
        how = _reduction(node)
        given = [node.args[_source(node)], node.args["index"]]
        where = [positions, self.tensors["index"]]
        args: dict[str, Any] = {"tensors": given, "axes": where, "kind": how}
        args |= {"number": number, "count": node.shape[number], "alpha": node.args.get("alpha", 1)}
        refs = [axes for leaf, axes in zip(given, where, strict=True) if is_value(leaf)]
        call = replace(
            node,
            op=f"spnb.partial_bins.{node.kind}",
            args=args,
            dtype=precise(node.dtype),
            operand_axes=tuple(refs),
        )
        first = of_each_tile(call, PartialBins, [number], tiling)
        merged = combined(node, first, cut, STATISTIC[how])
        last: dict[str, Any] = {
            "figures": Ref(merged[-1].name),
            "self": node.args["self"],
            "number": number,
        }
        last |= {"kind": how, "include_self": node.args.get("include_self", True)}
        operands = (merged[-1].axes, *([self.axes] if is_value(node.args["self"]) else []))
        finish = replace(node, op=f"spnb.merged_bins.{node.kind}", args=last, operand_axes=operands)
        return [first, *merged, finish]


def is_value(leaf: object) -> bool:
    """Whether an argument is a value of the network, and no weight."""
    return isinstance(leaf, Ref)


def _source(node: Node) -> str:
    """The name of the argument that has the numbers that are reduced."""
    return "source" if "source" in node.args else "src"


def _reduction(node: Node) -> str:
    return str(node.args.get("reduce", "sum"))


def scattered(node: Node) -> Scattered | None:
    """The rule of a reduction of positions into bins; None if it is none, or tiles cannot do it."""
    if node.kind not in ("scatter_add", "scatter_reduce", "index_add", "index_reduce"):
        return None
    how, names = _reduction(node), ("self", "index", _source(node))
    # Whether a bin was reached decides what it has without its own number.
    if how not in STATISTIC or (how.startswith("a") and not node.args.get("include_self", True)):
        return None
    operands = iter(node.operand_axes)
    tensors: dict[str, Axes] = {}
    for name, leaf in node.args.items():
        if name in names and is_value(leaf):
            tensors[name] = next(operands)
    number = node.args["dim"] % max(1, len(node.shape))
    positions = next((a for n, a in tensors.items() if n != "self" and len(a.dims) > 1), None)
    if positions is None or not axes_in(positions.dims[number]) or 0 in positions.axes_of(number):
        return None
    bins = positions.with_dims(list(_with(positions, number, dim(node.shape[number]))))
    wanted = {"self": bins, "index": positions, _source(node): positions}
    if node.kind.startswith("index"):
        wanted["index"] = Axes((positions.dims[number],), positions.rank)
    for name in names:
        leaf = node.args[name]
        alike = tensors.get(name, wanted[name]) == wanted[name]
        if not isinstance(leaf, (Ref, Weight)) or not alike:
            return None
        if isinstance(leaf, Weight) and leaf.shape != wanted[name].shape:
            return None
    return Scattered(node, number, wanted)


def _with(axes: Axes, number: int, changed: Any) -> Iterator[Any]:
    """The dimensions of some axes, with another one at a place."""
    for k, factors in enumerate(axes.dims):
        yield changed if k == number else factors


@dataclass(frozen=True)
class PartialBins(Partial):
    """The bins of each tile."""

    @cached_property
    def axes(self) -> Axes:
        figures = 2 if STATISTIC[self.node.args["kind"]] == "counted" else 1
        return self.of_parts.with_dims(
            [*self.of_parts.dims, dim(self.node.args["count"]), dim(figures)]
        )

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        args = self.node.args
        number, how = args["number"], args["kind"]
        positions = self.node.operand_axes[0]
        read = needs[0] & Region.whole(positions.extent)
        operands, found = iter(tensors), []
        for leaf, axes in zip(args["tensors"], args["axes"], strict=True):
            if is_value(leaf):
                found.append(next(operands))
            else:
                uncut = Axes.uncut(leaf.shape, axes.rank)
                found.append(fitted(weights[leaf.name], uncut, axes, read))
        source, index = found[0].to(self.node.dtype), found[1]
        if index.ndim < source.ndim:
            index = index.reshape([-1 if k == number else 1 for k in range(source.ndim)])
        index = index.expand(source.shape)
        shape = [args["count"] if k == number else n for k, n in enumerate(source.shape)]
        if STATISTIC[how] == "counted":
            ones = source.new_ones(()).expand(source.shape)
            pair = [
                source.new_zeros(shape).scatter_add(number, index, each)
                for each in (ones, source * args["alpha"])
            ]
        else:
            neutral = -math.inf if how == "amax" else math.inf
            pair = [source.new_full(shape, neutral).scatter_reduce(number, index, source, how)]
        return torch.stack([each.movedim(number, -1) for each in pair], -1).reshape(
            self.axes.local_shape(region)
        )


rule("spnb.partial_bins")(PartialBins)


@dataclass(frozen=True)
class MergedBins(Direct):
    """The result, from the merged bins of tiles and the numbers that were there before."""

    @cached_property
    def axes(self) -> Axes:
        figures, number = self.node.operand_axes[0], self.node.args["number"]
        *dims, bins, _ = figures.dims
        dims[number] = bins
        return figures.with_dims(dims)

    def against(self, weight: Weight) -> Axes | None:
        return self.axes

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        args, number = self.node.args, self.node.args["number"]
        before = args["self"]
        own = tensors[1] if is_value(before) else self._fitted_weight(before, weights, region)
        own = own.to(tensors[0].dtype)
        figures = [f.squeeze(number).movedim(-1, number) for f in tensors[0].unbind(-1)]
        return _merged(args["kind"], own, figures, args["include_self"]).to(self.node.dtype)


def _merged(
    how: str, own: torch.Tensor, figures: Sequence[torch.Tensor], include_self: bool
) -> torch.Tensor:
    """Bins after a reduction: see `torch.Tensor.scatter_reduce`."""
    if how in ("amax", "amin"):
        larger = torch.maximum if how == "amax" else torch.minimum
        return larger(own, figures[0])
    count, total = figures
    if include_self:
        return (own + total) / (1 + count) if how == "mean" else own + total
    reduced = total / count.clamp(min=1) if how == "mean" else total
    return torch.where(count > 0, reduced, own)


rule("spnb.merged_bins")(MergedBins)
