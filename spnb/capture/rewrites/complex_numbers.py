"""Calls of complex numbers, as calls for which the rules of real numbers hold.

The norm of complex numbers is a real number, and so is their variance.  Tiles merge such figures in
the type of the result, so they are computed from real numbers: from absolute values, or from real
and imaginary parts.

A conjugate in PyTorch is a view: it shows other numbers than its memory has.  Messages, files and
saved values are bytes of memory, so here a conjugate is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from ...ir.axes import Axes
from ...ir.node import Node, Ref

IN_MEMORY = {
    "aten._conj.default": "aten._conj_physical.default",
    "aten.conj.default": "aten._conj_physical.default",
    "aten._neg_view.default": "aten.neg.default",
}
"""Views that show other numbers than the memory has, by the calls that compute these numbers."""


def without_complex_figures(nodes: Sequence[Node]) -> Iterator[Node]:
    """Return the same calls, without views of conjugates and without real figures of complex ones.

    Parameters
    ----------
    nodes
        The calls, in order.
    """
    made: dict[str, Node] = {}
    for node in nodes:
        operand = node.args.get("self")
        source = made.get(operand.value) if isinstance(operand, Ref) else None
        made[node.name] = node
        if node.op in IN_MEMORY:
            yield replace(node, op=IN_MEMORY[node.op])
        elif node.kind in ADJOINTS:
            yield from _adjoint(node)
        elif source is not None and source.dtype.is_complex and node.kind in FIGURES:
            yield from FIGURES[node.kind](node, source)
        else:
            yield node


def _adjoint(node: Node) -> Iterable[Node]:
    """An adjoint, as the conjugate of a transposition."""
    name, args = f"{node.name}.transposed", {"self": node.args["self"], "dim0": -2, "dim1": -1}
    yield replace(node, name=name, op="aten.transpose.int", args=args)
    yield replace(node, op="aten._conj_physical.default", args={"self": Ref(name)})


def _norm(node: Node, source: Node) -> Iterable[Node]:
    """A norm, as that of the absolute values."""
    name, axes = f"{node.name}.abs", Axes.uncut(source.shape, 1)
    dtype = source.dtype.to_real()
    args = {"self": node.args["self"]}
    yield replace(node, name=name, op="aten.abs.default", args=args, axes=axes, dtype=dtype)
    yield replace(node, args={**node.args, "self": Ref(name)})


def _variance(node: Node, source: Node) -> Iterable[Node]:
    """A variance, as the sum of those of the real and of the imaginary parts."""
    names = [f"{node.name}.{k}" for k in range(3)]
    dims, rank = node.args.get("dim"), len(source.shape)
    dims = [dims] if isinstance(dims, int) else list(dims or range(rank))
    unbiased = node.args.get("correction", node.args.get("unbiased", True))
    correction = 1 if unbiased is None else unbiased
    pairs = Axes.uncut((*source.shape, 2), 1)
    args = {"self": node.args["self"]}
    yield replace(node, name=names[0], op="aten.view_as_real.default", args=args, axes=pairs)
    args = {"self": Ref(names[0]), "dim": [d % rank for d in dims], "correction": correction}
    args["keepdim"] = node.args.get("keepdim", False)
    each = replace(node, name=names[1], op="aten.var.correction", args=args)
    yield replace(each, axes=Axes.uncut((*node.shape, 2), 1))
    args = {"self": Ref(names[1]), "dim": [-1], "keepdim": False, "dtype": None}
    last = node.name if node.kind == "var" else names[2]
    yield replace(node, name=last, op="aten.sum.dim_IntList", args=args)
    if node.kind == "std":
        yield replace(node, op="aten.sqrt.default", args={"self": Ref(last)})


ADJOINTS = ("mH", "adjoint", "matrix_H")
"""Operators that give the conjugate of a transposed matrix."""

FIGURES: dict[str, Callable[[Node, Node], Iterable[Node]]] = {
    "norm": _norm,
    "linalg_vector_norm": _norm,
    "var": _variance,
    "std": _variance,
}
"""Operators that give real figures of complex numbers, by what writes their calls."""
