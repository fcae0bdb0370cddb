"""Figures of tiles, and the calls that merge them.

A sum over space is one call for a user, and several for the tiles of a stage::

    x          (1, 64, 97, 131)   the operand, in tiles
    partial    (1, 64, 2, 3)      one position for each tile of a 2×3 grid: the tile's sum
    combined   (1, 64, 2, 1)      one for each row of tiles, computed by the last tile of the row
    combined   (1, 64, 1, 1)      one for all tiles, computed by the last tile
    finish     (1, 64, 1, 1)      the result, such as a mean; sent to the tiles that read it

A partial is an ordinary value; its extent is the grid.  So figures are merged by ordinary
exchanges, and all tiles read the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from ...ir.axes import Axes, dim
from ...ir.node import Node, Ref
from ...ir.region import Region, Span
from ...ir.tiling import Tiling
from ...kernels.sum_types import precise
from ..base import Direct, Spans, Tensors, Weights
from ..registry import rule
from .statistics import REDUCTIONS, STATISTICS, Statistic


def merged(
    node: Node, operand: Ref, axes: Axes, dims: list[int], kind: str, tiling: Tiling
) -> list[Node]:
    """Calls that compute a statistic over dimensions of a value, tile by tile, and merge it.

    Parameters
    ----------
    node
        The call that they replace; their names begin with its name.
    operand, axes
        The value, and where the axes of the image lie in it.
    kind
        A key of `REDUCTIONS`, or of `STATISTICS`.
    """
    images = [d for d in dims if axes.axes_of(d) == (0,)] if tiling.grid[0] > 1 else []
    if images:  # figures are per image until the end, as micro-batches may differ in size
        dims = [d for d in dims if d not in images]
    first = partial_figures(node, operand, axes, dims, kind, tiling)
    parts = first.args["parts"]
    return [first, *combined(node, first, list(parts), _statistic(kind), images=len(images))]


def partial_figures(
    node: Node, operand: Ref, axes: Axes, dims: list[int], kind: str, tiling: Tiling
) -> Node:
    """The call that computes the figures of each tile; the arguments are those of `merged`."""
    call = replace(
        node,
        op=f"spnb.partial.{node.kind}",
        args={"self": operand, "kind": kind, "options": _options(node)},
        dtype=precise(node.dtype),
        operand_axes=(axes,),
    )
    return of_each_tile(call, Partial, dims, tiling)


def of_each_tile(call: Node, rule: type[Partial], dims: Sequence[int], tiling: Tiling) -> Node:
    """The first of the calls that merge: it computes the figures of each tile.

    Parameters
    ----------
    call
        It has the operator and its arguments, and the name of the call that is merged.
    rule
        The operator's rule.
    dims
        The dimensions of the first operand over which the figures are computed.
    """
    axes = call.operand_axes[0]
    spans = tiling.spans(axes.extent)
    parts = {axis: spans[axis] for axis in cut_axes(axes, dims, tiling)}
    args = {**call.args, "dims": list(dims), "parts": parts}
    call = replace(call, name=f"{call.name}.partial", args=args)
    return replace(call, axes=rule(call).axes)


def combined(
    node: Node,
    partial: Node,
    parts: Sequence[int],
    statistic: str,
    images: int = 0,
    operator: str = "spnb.combined",
) -> list[Node]:
    """Calls that merge the figures of tiles along one axis of the grid after another.

    Parameters
    ----------
    node
        The call that they replace; their names begin with its name.
    partial
        Computes the figures of each tile.
    parts
        The axes of the grid along which the figures differ.
    statistic
        A key of `STATISTICS`.
    images
        1 if the figures of all images are merged at the end, else 0.
    operator
        The operator that merges: `Combined`, or one that is derived from it.
    """
    nodes = [partial]
    for axis in (*reversed(parts), *[0] * images):
        last = nodes[-1]
        args = {"self": Ref(last.name), "axis": axis, "statistic": statistic}
        args["unmerged"] = [a for a in parts if a < axis]
        call = replace(last, name=f"{node.name}.over{axis}", op=f"{operator}.{node.kind}")
        call = replace(call, args=args, operand_axes=(last.axes,))
        nodes.append(replace(call, axes=Combined(call).axes))
    return nodes[1:]


def _options(node: Node) -> dict[str, Any]:
    """The arguments of a call that are not tensors."""
    return {k: v for k, v in node.args.items() if isinstance(v, (int, float, str, bool))}


def _statistic(kind: str) -> str:
    return REDUCTIONS[kind].statistic if kind in REDUCTIONS else kind


def cut_axes(axes: Axes, dims: Sequence[int], tiling: Tiling) -> list[int]:
    """The axes in some dimensions that a grid cuts."""
    found = [axis for d in dims for axis in axes.axes_of(d)]
    return [a for a in found if tiling.grid[a] > 1]


def positions_of(parts: Sequence[Span], span: Span) -> Span:
    """The positions of the image in a span of the grid's parts along an axis.

    >>> positions_of([(0, 4), (4, 9)], (1, 2))
    (4, 9)
    """
    return (parts[span[0]][0], parts[span[1] - 1][1])


def finished(node: Node, figures: Node, kind: str, count: int, gone: Sequence[int]) -> Node:
    """The call that gives a reduction's result, from the merged figures of a call.

    Parameters
    ----------
    node
        The call that is replaced; the result has its name.
    figures
        Gives the merged figures.
    kind
        A key of `REDUCTIONS`.
    count
        The number of elements that were reduced.
    gone
        Dimensions of the figures that the result does not have.
    """
    args = {"self": Ref(figures.name), "kind": kind, "count": count, "gone": tuple(gone)}
    args["options"] = _options(node)
    op = f"spnb.finish.{node.kind}"
    return replace(node, op=op, args=args, operand_axes=(figures.axes,))


@dataclass(frozen=True)
class Partial(Direct):
    """The figures of each tile; the extent of the result is the grid."""

    owner_computes = True
    any_layout = True

    @cached_property
    def axes(self) -> Axes:
        parts, statistic = self.of_parts, STATISTICS[_statistic(self.node.args["kind"])]
        return parts.with_dims([*parts.dims, dim(len(statistic.neutral))])

    @property
    def of_parts(self) -> Axes:
        """Axes with one position for each tile, without the figures."""
        operand, parts = self.node.operand_axes[0], self.node.args["parts"]
        dims = list(operand.dims)
        for d in self.node.args["dims"]:
            held = [a for a in operand.axes_of(d) if a in parts]
            dims[d] = tuple(factor for a in held for factor in dim(len(parts[a]), a))
        return operand.with_dims(dims)

    def need(self, operand: int, axis: int, span: Span) -> Span:
        axes, parts = self.node.operand_axes[0], self.node.args["parts"]
        if axis in parts:
            return positions_of(parts[axis], span)
        whole = any(axis in axes.axes_of(d) for d in self.node.args["dims"])
        return (0, axes.extent[axis]) if whole else span

    def own(self, tiling: Tiling) -> Spans:
        return one_each(tiling, self.axes, self.node.args["parts"])

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        args, dims = self.node.args, self.node.args["dims"]
        statistic = STATISTICS[_statistic(args["kind"])]
        x = tensors[0].to(self.node.dtype)
        if args["kind"] in REDUCTIONS:
            x = REDUCTIONS[args["kind"]].prepare(x, args["options"])
        if x.numel():
            figures = statistic.of(x, dims)
        else:
            figures = x.new_tensor(_neutral(statistic, x.dtype))
            figures = figures.expand(self.axes.local_shape(region))
        shape = self.axes.local_shape(region)
        return figures if figures.shape == shape else figures.reshape(shape)


def _neutral(statistic: Statistic, dtype: torch.dtype) -> tuple[float, ...]:
    """The figures of an empty set; whole numbers have no infinity."""
    if dtype.is_floating_point or dtype.is_complex:
        return statistic.neutral
    ends = torch.iinfo(dtype)
    return tuple(int(min(max(n, ends.min), ends.max)) for n in statistic.neutral)


def one_each(tiling: Tiling, axes: Axes, parts: Sequence[int]) -> Spans:
    """Spans of ownership where each part of the grid owns one position along some axes."""
    spans = list(tiling.spans(axes.extent))
    for axis in parts:
        spans[axis] = tuple((k, k + 1) for k in range(tiling.grid[axis]))
    return tuple(spans)


@dataclass(frozen=True)
class Combined(Direct):
    """Figures merged along one axis of the grid."""

    owner_computes = True

    @cached_property
    def axes(self) -> Axes:
        operand, axis = self.node.operand_axes[0], self.node.args["axis"]
        return operand.with_dims([tuple(f for f in d if f.axis != axis) for d in operand.dims])

    def need(self, operand: int, axis: int, span: Span) -> Span:
        whole = axis == self.node.args["axis"]
        return (0, self.node.operand_axes[0].extent[axis]) if whole else span

    def own(self, tiling: Tiling) -> Spans:
        return one_each(tiling, self.axes, self.node.args["unmerged"])

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        if self._dim is not None:
            return self._joint(tensors[0], self._dim)
        operand, axis = self.node.operand_axes[0], self.node.args["axis"]
        factors = [factor for factors in operand.dims for factor in factors]
        at = next(k for k, factor in enumerate(factors) if factor.axis == axis)
        here = region.shape
        sizes = [f.size if f.axis is None else here[f.axis] for f in factors]
        sizes[at] = -1
        if not operand.dims[-1]:
            sizes.append(1)  # a dimension of size 1 has no factor
        joint = self._joint(tensors[0].reshape(sizes), at)
        return joint.reshape(self.axes.local_shape(region))

    @cached_property
    def _dim(self) -> int | None:
        """The dimension that holds the axis and nothing else, if there is one."""
        alone = [[factor.axis for factor in dim] for dim in self.node.operand_axes[0].dims]
        axis = self.node.args["axis"]
        return alone.index([axis]) if [axis] in alone else None

    def _joint(self, figures: torch.Tensor, d: int) -> torch.Tensor:
        """The figures of the union of sets, which differ along a dimension."""
        return STATISTICS[self.node.args["statistic"]].merge(figures, d)


@dataclass(frozen=True)
class Finish(Direct):
    """The result of a reduction, from its merged figures."""

    @cached_property
    def axes(self) -> Axes:
        operand, gone = self.node.operand_axes[0], self.node.args["gone"]
        return operand.with_dims([d for k, d in enumerate(operand.dims[:-1]) if k not in gone])

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        args = self.node.args
        finish = REDUCTIONS[args["kind"]].finish
        result = finish(list(tensors[0].unbind(-1)), args["count"], args["options"])
        return result.reshape(self.axes.local_shape(region)).to(self.node.dtype)


rule("spnb.partial")(Partial)
rule("spnb.combined")(Combined)
rule("spnb.finish")(Finish)
