"""Linear algebra of small matrices, one at each position: determinants, inverses, eigenvalues."""

from __future__ import annotations

from ..ir.axes import dim
from ..ir.node import Node
from .base import Local
from .elementwise import uncut
from .registry import rule

OF_MATRICES = """
    linalg_cholesky linalg_det linalg_eigvals linalg_eigvalsh linalg_inv linalg_matrix_exp
    linalg_matrix_power linalg_pinv linalg_solve linalg_svdvals matrix_exp matrix_power
"""
"""Operators on the last two dimensions, with one result."""


@rule(*OF_MATRICES.split())
def of_matrices(node: Node) -> Local | None:
    """The rule of an operator on matrices, whose rows and columns are never cut."""
    matrices, *others = node.operand_axes
    before = matrices.dims[:-2]
    alike = all(axes.dims[: len(before)] == before for axes in others)
    whole = all(uncut(axes, range(len(before), len(axes.dims))) for axes in node.operand_axes)
    if len(matrices.dims) < 2 or not (alike and whole):
        return None
    if any(len(weight.shape) > 2 for weight in node.weights):
        return None  # a weight of its own for each position
    return Local(node, matrices.with_dims([*before, *map(dim, node.shape[len(before) :])]))
