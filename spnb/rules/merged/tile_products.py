"""Products that sum over positions of the image: each tile multiplies its own, sums are merged.

Channel attention and Gram matrices are such products: ``q @ k.transpose(1, 2)`` of values of shape
``(batch, channels, positions)`` has no position left, and is small however large the image is::

    q, k       (1, 64, 97 * 131)        the operands, in tiles of a 2×3 grid
    partial    (1, 64, 64, 2, 3, 1)     the product over each tile's positions
    combined   (1, 64, 64, 1, 1, 1)     their sum, merged like a mean's
    finish     (1, 64, 64)              the result, sent to the tiles that read it
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ...ir.axes import Axes, dim
from ...ir.broadcasting import fitted
from ...ir.node import Node, Ref, Weight
from ...ir.region import Region, Span
from ...ir.tiling import Tiling
from ...kernels.sum_types import precise
from ..base import Direct, Spans, Tensors, Weights
from ..calls import invoke
from ..registry import rule
from .merging import Finish, combined, finished, one_each, positions_of


@dataclass(frozen=True)
class ProductTargets:
    """How the tensors of a product are cut, so that each tile can multiply its own positions.

    Attributes
    ----------
    operands
        The axes of each operand's dimensions, in order.
    weights
        The axes of each weight's dimensions, by name.
    result
        The axes of the result.
    """

    operands: tuple[Axes, ...]
    weights: Mapping[str, Axes]
    result: Axes

    @property
    def extent(self) -> tuple[int, ...]:
        """Sizes of the image along its axes, in whichever operand has them."""
        return tuple(map(max, zip(*(axes.extent for axes in self.operands), strict=True)))


def product_of_tiles(
    node: Node, targets: ProductTargets, axes: Sequence[int], tiling: Tiling
) -> list[Node]:
    """The calls that replace a product whose sum runs over axes that a grid cuts.

    Parameters
    ----------
    node
        The product.
    targets
        How its tensors are cut.
    axes
        The axes that are summed over.
    tiling
        The grid.
    """
    spans = tiling.spans(targets.extent)
    bias = node.args.get("bias")
    given = {name: arg for name, arg in node.args.items() if name != "bias" or arg is None}
    args = {"of": node.op, "given": list(given), "targets": targets}
    args |= {"parts": {axis: spans[axis] for axis in axes}, **given}
    dtype = precise(node.dtype)
    kept = [
        axes_ for axes_, used in zip(node.operand_axes, _used(node, given), strict=True) if used
    ]
    call = replace(
        node,
        name=f"{node.name}.partial",
        op=f"spnb.partial_product.{node.kind}",
        args=args,
        dtype=dtype,
        operand_axes=tuple(kept),
    )
    first = replace(call, axes=PartialProduct(call).axes)
    nodes = [first, *combined(node, first, list(axes), "sum")]
    rank = len(targets.result.dims)
    last = finished(node, nodes[-1], "sum", count=1, gone=range(rank, rank + len(axes)))
    if bias is None:
        return [*nodes, last]
    last = replace(last, name=f"{node.name}.product")
    last = replace(last, axes=Finish(last).axes)
    added = {"self": Ref(last.name), "other": bias, "alpha": 1}
    bias_axes = node.operand_axes[-1:] if isinstance(bias, Ref) else ()
    add = replace(node, op="aten.add.Tensor", args=added, operand_axes=(last.axes, *bias_axes))
    return [*nodes, last, add]


def _used(node: Node, given: Mapping[str, Any]) -> list[bool]:
    """For each operand, whether it is among some of the call's arguments."""
    read = replace(node, args=dict(given)).operands
    return [value in read for value in node.operands]


@dataclass(frozen=True)
class PartialProduct(Direct):
    """The product over the positions of each tile; the extent of the result is the grid."""

    owner_computes = True

    @cached_property
    def axes(self) -> Axes:
        result: Axes = self.node.args["targets"].result
        parts = [dim(len(spans), axis) for axis, spans in self.node.args["parts"].items()]
        return result.with_dims([*result.dims, *parts, dim(1)])

    def need(self, operand: int, axis: int, span: Span) -> Span:
        extent = self.node.operand_axes[operand].extent[axis]
        if extent == 1:
            return (0, 1)
        cut = axis in self.node.args["targets"].operands[operand].present
        return self._read(axis, span, extent) if cut else (0, extent)

    def _read(self, axis: int, span: Span, extent: int) -> Span:
        """What a span of the result reads along an axis: a part's positions, or all of them."""
        if axis in self.node.args["parts"]:
            return positions_of(self.node.args["parts"][axis], span)
        return span if axis in self.node.args["targets"].result.present else (0, extent)

    def own(self, tiling: Tiling) -> Spans:
        return one_each(tiling, self.axes, self.node.args["parts"])

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        args, targets = self.node.args, self.node.args["targets"]
        extent = targets.extent
        read = Region(
            tuple(self._read(axis, s, extent[axis]) for axis, s in enumerate(region.spans))
        )
        cuts = zip(tensors, self.node.operand_axes, targets.operands, strict=True)
        operands = [fitted(tensor, axes, target, read) for tensor, axes, target in cuts]

        def uncut(weight: Weight) -> Axes:
            return Axes.uncut(weight.shape, self.axes.rank)

        local = {
            w.name: fitted(weights[w.name], uncut(w), targets.weights[w.name], read)
            for w in self.node.weights
        }
        bound = self.node.bind(operands, local)
        result = invoke(args["of"], {"bias": None} | {name: bound[name] for name in args["given"]})
        return result.to(self.node.dtype).reshape(self.axes.local_shape(region))


rule("spnb.partial_product")(PartialProduct)
