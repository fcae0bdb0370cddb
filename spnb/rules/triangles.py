"""Triangles and diagonals: positions chosen by the difference of their row and their column."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from ..ir.axes import Axes, dim
from ..ir.node import Node
from ..ir.region import Region
from .base import Direct, Local, Rule, Tensors, Weights
from .elementwise import uncut
from .registry import rule

CHOSEN: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {
    "triu": operator.ge,
    "tril": operator.le,
    "on_diagonal": operator.eq,
}
"""Which differences, column minus row, an operator chooses; other positions become zero."""


@dataclass(frozen=True)
class Triangle(Direct):
    """Zeros, except where column minus row is in a relation to a number (torch.triu).

    Parameters
    ----------
    rows, columns
        The two dimensions.
    """

    rows: int
    columns: int

    @cached_property
    def axes(self) -> Axes:
        return self.node.operand_axes[0]

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        x = tensors[0]
        row, column = (self._positions(n, x, region) for n in (self.rows, self.columns))
        chosen = CHOSEN[self.node.kind](column - row, self.node.args["diagonal"])
        return torch.where(chosen, x, x.new_zeros(()))

    def _positions(self, number: int, x: torch.Tensor, region: Region) -> torch.Tensor:
        """The positions in the image of a dimension, in a shape that is broadcast against x."""
        found = self.axes.axes_of(number)
        start = region.spans[found[0]][0] if found else 0
        positions = torch.arange(start, start + x.shape[number], device=x.device)
        return positions.reshape([-1 if k == number else 1 for k in range(x.ndim)])


@rule("triu", "tril", "spnb.on_diagonal")
def triangle(node: Node) -> Rule | None:
    """The rule of a triangle of the last two dimensions, or of the diagonal of any two."""
    axes, rank = node.operand_axes[0], len(node.shape)
    rows, columns = node.args.get("dim1", rank - 2), node.args.get("dim2", rank - 1)
    plain = all(len(axes.dims[number]) <= 1 for number in (rows, columns))
    batch = any(0 in axes.axes_of(number) for number in (rows, columns))
    return Triangle(node, rows, columns) if plain and not batch else None


@rule("diagonal")
def diagonal(node: Node) -> Rule | None:
    """The rule of a diagonal of dimensions that are never cut; capture rewrites all others."""
    axes, rank = node.operand_axes[0], len(node.operand_axes[0].dims)
    pair = [node.args[name] % rank for name in ("dim1", "dim2")]
    if not uncut(axes, pair):
        return None
    beside = [d for number, d in enumerate(axes.dims) if number not in pair]
    return Local(node, axes.with_dims([*beside, dim(node.shape[-1])]))
