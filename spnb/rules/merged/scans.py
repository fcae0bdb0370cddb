"""Scans: the sum, product or largest of all positions so far along a dimension (torch.cumsum).

Each tile scans its own positions.  The tiles before it are merged from one figure of each::

    x         | 1 2 3 | 4  5 |  6  7 |     the operand, in tiles
    partial   |     6 |    9 |    13 |     the figure of each tile, here its sum
    result    | 1 3 6 | 10 15 | 21 28 |    the tile's own scan, plus the figures of the tiles before
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from ...ir.axes import Axes
from ...ir.node import Node, Ref
from ...ir.region import Region, Span
from ...ir.tiling import Tiling
from ...kernels.sum_types import precise
from ..base import Direct, Tensors, Weights
from ..fallback import Whole, rule_of
from ..registry import rule
from .merging import cut_axes, partial_figures
from .statistics import STATISTICS


@dataclass(frozen=True)
class Scan:
    """How the scan of a tile goes on from the tiles before it.

    Attributes
    ----------
    statistic
        A key of `STATISTICS`: the figures of a tile.
    continued
        Takes the scan of a tile alone, and the merged figures of the tiles before it.
    """

    statistic: str
    continued: Callable[[torch.Tensor, list[torch.Tensor]], torch.Tensor]


SCANS = {
    "cumsum": Scan("sum", lambda scan, before: scan + before[0]),
    "cumprod": Scan("product", lambda scan, before: scan * before[0]),
    "cummax": Scan("largest", lambda scan, before: torch.maximum(scan, before[0])),
    "cummin": Scan("smallest", lambda scan, before: torch.minimum(scan, before[0])),
    "logcumsumexp": Scan(
        "exponentials",
        lambda scan, before: torch.logaddexp(scan, before[0] + before[1].log()),
    ),
}
"""The scans of PyTorch, by the names of their functions in `torch`."""


def scanned(kind: str, x: torch.Tensor, number: int) -> torch.Tensor:
    """The scan of a tensor along a dimension; of a largest or smallest number without its place.

    >>> scanned("cummax", torch.tensor([1, 3, 2]), 0)
    tensor([1, 3, 3])
    """
    found = getattr(torch, kind)(x, number)
    return found if isinstance(found, torch.Tensor) else found[0]


@dataclass(frozen=True)
class Scanned(Whole):
    """A scan along a dimension that tiles may cut.

    Parameters
    ----------
    number
        The dimension.
    """

    number: int

    @cached_property
    def axes(self) -> Axes:
        return self.node.operand_axes[0]

    def gathers(self, operand: int, axis: int) -> bool:
        return axis in self.axes.axes_of(self.number)

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        x = tensors[0].to(precise(self.node.dtype))
        result = scanned(self.node.kind, x, self.number).to(self.node.dtype)
        return self.axes.piece(result, self._held(region, needs, tensors), region)

    def lower(self, tiling: Tiling) -> Sequence[Node]:
        """Each tile scans its own positions, and adds the figures of the tiles before it."""
        node, axes = self.node, self.axes
        cut = cut_axes(axes, [self.number], tiling)
        if not cut:
            return (node,)
        if len(axes.dims[self.number]) > 1:
            sums = node.kind == "cumsum" and node.dtype.is_floating_point
            return self._row_by_row(tiling) if sums else (node,)
        kind, operand = node.kind, Ref(node.operands[0])
        figures = partial_figures(node, operand, axes, [self.number], SCANS[kind].statistic, tiling)
        args = {"self": operand, "before": Ref(figures.name), "kind": kind}
        args |= {"dim": self.number, "parts": tiling.spans(axes.extent)[cut[0]]}
        op = f"spnb.continued_scan.{kind}"
        last = replace(node, op=op, args=args, operand_axes=(axes, figures.axes))
        return (figures, last)

    def _row_by_row(self, tiling: Tiling) -> list[Node]:
        """Sums of flattened positions: those of each row, and the sum of all rows before it."""
        node, number, dims = self.node, self.number, self.axes.dims
        first, *others = dims[number]
        apart = [*dims[:number], (first,), tuple(others), *dims[number + 1 :]]
        shape = self.axes.with_dims(apart).shape
        single = (*shape[: number + 1], 1, *shape[number + 2 :])
        one_row_later = [0, 0] * (len(shape) - number - 1) + [1, -1]
        calls = _Replacement(node, tiling, {node.operands[0]: self.axes})
        x, columns = node.args["self"], number + 1
        rows = calls.add("rows", "view.default", shape, self=x, size=list(shape))
        scans = calls.add("scans", "cumsum.default", shape, self=rows, dim=columns, dtype=None)
        dim: dict[str, Any] = {"dim": [columns], "keepdim": True, "dtype": None}
        totals = calls.add("totals", "sum.dim_IntList", single, self=rows, **dim)
        running = calls.add(
            "running", "cumsum.default", single, self=totals, dim=number, dtype=None
        )
        pad: dict[str, Any] = {"pad": one_row_later, "value": 0.0}
        before = calls.add("before", "constant_pad_nd.default", single, self=running, **pad)
        sums = calls.add("sums", "add.Tensor", shape, self=scans, other=before, alpha=1)
        calls.add("", "view.default", node.shape, self=sums, size=list(node.shape))
        return calls.nodes


@dataclass
class _Replacement:
    """The calls that replace a call in a stage with a grid.

    Attributes
    ----------
    node
        The call that they replace.
    tiling
        The grid.
    axes
        Where the axes of the image lie in each value that they read.
    nodes
        The calls, each as tiles compute it.
    """

    node: Node
    tiling: Tiling
    axes: dict[str, Axes]
    nodes: list[Node] = field(default_factory=list)

    def add(self, name: str, op: str, shape: Sequence[int], /, **args: Any) -> Ref:
        """Add a call, and return its result; without a name, it has that of the replaced call."""
        name = f"{self.node.name}.{name}" if name else self.node.name
        axes = Axes.uncut(shape, self.node.axes.rank)
        call = replace(self.node, name=name, op=f"aten.{op}", args=args, axes=axes)
        call = replace(call, operand_axes=tuple(self.axes[value] for value in call.operands))
        call = replace(call, axes=rule_of(call).axes)
        self.axes[name] = call.axes
        self.nodes += rule_of(call).lower(self.tiling)
        return Ref(name)


@rule("cumsum", "cumprod", "logcumsumexp", "spnb.cummax", "spnb.cummin")
def scan(node: Node) -> Scanned | None:
    """The rule of a scan."""
    count = len(node.shape)
    return Scanned(node, node.args["dim"] % count) if count else None


@dataclass(frozen=True)
class ContinuedScan(Direct):
    """The scan of a tile, which goes on from the figures of the tiles before it."""

    owner_computes = True

    @cached_property
    def axes(self) -> Axes:
        return self.node.operand_axes[0]

    @property
    def axis(self) -> int:
        """The axis along which positions are scanned."""
        return self.axes.axes_of(self.node.args["dim"])[0]

    def _part(self, start: int) -> int:
        """Number of the tile along the axis that has a position."""
        parts = self.node.args["parts"]
        return next(k for k, (first, stop) in enumerate(parts) if first <= start < stop)

    def need(self, operand: int, axis: int, span: Span) -> Span:
        if axis != self.axis:
            return super().need(operand, axis, span)
        part = self._part(span[0])
        if operand == 0:
            return (self.node.args["parts"][part][0], span[1])
        return (0, max(1, part))

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        kind, number = self.node.args["kind"], self.node.args["dim"]
        (x, figures), (start, stop) = tensors, region.spans[self.axis]
        result = scanned(kind, x.to(figures.dtype), number)
        if part := self._part(start):
            before = figures.narrow(number, 0, part)
            merged = STATISTICS[SCANS[kind].statistic].merge(before, number)
            result = SCANS[kind].continued(result, list(merged.unbind(-1)))
        first = start - needs[0].spans[self.axis][0]
        return result.narrow(number, first, stop - start).to(self.node.dtype)


rule("spnb.continued_scan")(ContinuedScan)
