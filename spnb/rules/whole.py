"""Operators that read the whole extent of space, but treat each image of a batch for itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..node import Node, extent_of, invoke
from ..region import Region, Span
from .base import Rule, Tensors, Weights, rule


@dataclass(frozen=True)
class Whole(Rule):
    """An operator that reads the whole spatial extent, each image of the batch for itself."""

    gathers = True

    def need(self, operand: int, axis: int, span: Span) -> Span:
        if axis == 0:
            return super().need(operand, axis, span)
        return (0, extent_of(self.node.operand_shapes[operand])[axis])

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        args = self.node.bind(tensors, weights)
        for name in ("size", "shape"):  # captured with the batch size of the whole image batch
            if name in args and args[name][0] == self.node.shape[0]:
                args[name] = [region.shape[0], *args[name][1:]]
        return invoke(self.node.op, args)


WHOLE = """
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d
    adaptive_max_pool2d adaptive_max_pool3d expand flatten group_norm instance_norm layer_norm
    linear permute reshape rms_norm scaled_dot_product_attention select squeeze transpose unflatten
    unsqueeze upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d
    upsample_nearest2d upsample_nearest3d upsample_trilinear3d view pixel_shuffle pixel_unshuffle
    conv_transpose1d conv_transpose2d conv_transpose3d roll flip matmul
"""
REDUCTIONS = "mean sum amax amin var std linalg_vector_norm logsumexp"


@rule(*REDUCTIONS.split())
def reduction(node: Node) -> Rule | None:
    """Over channels alone, and keeping their axis, every position is for itself."""
    dims = _numbers(node, "dim")
    over_channels = [d % len(node.operand_shapes[0]) for d in dims] == [1]
    return Rule(node) if over_channels and node.args.get("keepdim") else whole(node)


@rule(*WHOLE.split())
def whole(node: Node) -> Rule | None:
    """Operators that mix positions, but never the images of a batch."""
    dims = _numbers(node, "dim", "dims", "dim0", "dim1", "start_dim")
    if node.kind == "permute":
        mixes_batch = dims[0] % len(dims) != 0
    else:
        rank = len(node.operand_shapes[0]) + (node.kind == "unsqueeze")
        reduces_all = node.kind in (*REDUCTIONS.split(), "squeeze", "roll") and not dims
        mixes_batch = reduces_all or any(d % rank == 0 for d in dims)
    shapes = (node.shape, *node.operand_shapes)
    same_batch = all(shape and shape[0] == node.shape[0] for shape in shapes)
    return Whole(node) if same_batch and not mixes_batch else None


def _numbers(node: Node, *names: str) -> list[int]:
    found = []
    for name in names:
        value = node.args.get(name)
        found += value if isinstance(value, (list, tuple)) else [value] * (value is not None)
    return found
