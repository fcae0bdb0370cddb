"""Sums over the positions of all pieces: one for each piece, and then their sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...ir.node import Node, Ref, Weight, map_leaves
from ...ir.region import length
from ...kernels.sum_types import precise
from ...rules.matmul import MERGING, Labels, Product
from ...rules.merged.reductions import Reduction
from ...rules.merged.statistics import order_of
from .alike import rule_in_positions
from .piece_calls import Leaf, PieceCalls
from .pieces import Pieces

FOLDED = {
    "sum": "aten.add.Tensor",
    "mean": "aten.add.Tensor",
    "prod": "aten.mul.Tensor",
    "amax": "aten.maximum.default",
    "amin": "aten.minimum.default",
    "logsumexp": "aten.logaddexp.default",
}
"""For a reduction, the operator that gives the result of two sets from that of each."""

ALPHA = {"aten.add.Tensor": {"alpha": 1}}
"""Further arguments of such an operator."""


def reduced(calls: PieceCalls, node: Node, pieces: Pieces) -> Leaf | None:
    """A reduction over the positions, from that of each piece.

    Parameters
    ----------
    calls
        The calls so far.
    node
        A call with one operand.
    pieces
        Its operand.
    """
    rule = rule_in_positions(node, {node.operands[0]: pieces})
    if not isinstance(rule, Reduction) or pieces.number not in rule.dims:
        return None
    if node.kind in ("norm", "linalg_vector_norm"):
        return _norm(calls, node, pieces) if order_of(node.args) > 0 else None
    if node.kind not in FOLDED or not node.dtype.is_floating_point:
        return None
    results = _of_each(calls, node, pieces)
    if node.kind == "mean":
        shares = [length(span) / pieces.total for span in pieces.spans]
        results = [
            calls.mapped(node, f"{node.name}.share{k}", "aten.mul.Scalar", leaf, other=share)
            for k, (leaf, share) in enumerate(zip(results, shares, strict=True))
        ]
    op = FOLDED[node.kind]
    return calls.folded(node, op, results, node.shape, **ALPHA.get(op, {}))


def _of_each(calls: PieceCalls, node: Node, pieces: Pieces) -> list[Leaf]:
    """The result of a reduction for each piece."""
    found = []
    for k, name in enumerate(pieces.names):
        args = {**node.args, "self": Ref(name)}
        found.append(calls.add(node, f"{node.name}.piece{k}", node.op, args, node.shape))
    return found


def _norm(calls: PieceCalls, node: Node, pieces: Pieces) -> Leaf:
    """A vector norm: the norm of the norms of the pieces."""
    single, rank = (*node.shape, 1), len(node.shape)
    columns = []
    for k, leaf in enumerate(_of_each(calls, node, pieces)):
        name, column = f"{node.name}.column{k}", {"self": leaf, "dim": rank}
        columns.append(calls.add(node, name, "aten.unsqueeze.default", column, single))
    joint = {"tensors": columns, "dim": rank}
    shape = (*node.shape, len(columns))
    each = calls.add(node, f"{node.name}.columns", "aten.cat.default", joint, shape)
    args: dict[str, Any] = {"self": each, "ord": order_of(node.args), "dim": [rank]}
    args |= {"keepdim": False, "dtype": None}
    return calls.add(node, node.name, "aten.linalg_vector_norm.default", args, node.shape)


def summed_product(calls: PieceCalls, node: Node, held: Mapping[str, Pieces]) -> Leaf | None:
    """A product that sums over the positions, from that of each piece.

    Parameters
    ----------
    calls
        The calls so far.
    node
        The product.
    held
        Those of its operands that are in pieces.
    """
    rule = rule_in_positions(node, held)
    if not isinstance(rule, Product) or node.kind not in MERGING:
        return None
    pairs = list(zip(node.operands, rule.labels, strict=True))
    summed = {labels[held[value].number] for value, labels in pairs if value in held}
    spans = {pieces.spans for pieces in held.values()}
    together = len(summed) == len(spans) == 1 and all(p.alone for p in held.values())
    if not together or summed & set(rule.result_labels):
        return None
    cuts = _dimensions(rule, held, summed.pop())
    if cuts is None:
        return None
    results = []
    for k, span in enumerate(spans.pop()):

        def piece(leaf: Any, k: int = k, span: tuple[int, int] = span) -> Any:
            if isinstance(leaf, Ref) and leaf.value in held:
                return Ref(held[leaf.value].names[k])
            if isinstance(leaf, (Ref, Weight)) and leaf in cuts:
                return calls.sliced(node, leaf, cuts[leaf], span)
            return leaf

        args = {name: map_leaves(piece, arg) for name, arg in node.args.items()}
        if k and "bias" in args:
            args["bias"] = None
        results.append(calls.add(node, f"{node.name}.piece{k}", node.op, args, node.shape))
    return calls.folded(node, "aten.add.Tensor", results, node.shape, alpha=1)


def _dimensions(rule: Product, held: Mapping[str, Pieces], label: str) -> dict[Leaf, int] | None:
    """The dimension with a label, of each tensor that has it and is not in pieces.

    None if a tensor occurs twice, and has the label in different dimensions.
    """
    pairs: list[tuple[Leaf, Labels]] = [
        (Ref(value), labels)
        for value, labels in zip(rule.node.operands, rule.labels, strict=True)
        if value not in held
    ]
    pairs += [(w, rule.weight_labels.get(w.name, ())) for w in rule.node.weights]
    found: dict[Leaf, int | None] = {}
    for leaf, labels in pairs:
        number = labels.index(label) if label in labels else None
        if found.setdefault(leaf, number) != number:
            return None
    return {leaf: number for leaf, number in found.items() if number is not None}


def softmax(calls: PieceCalls, node: Node, pieces: Pieces) -> Pieces | None:
    """Softmax over the positions: from the logarithm of the sum of the exponentials of all.

    Parameters
    ----------
    calls
        The calls so far.
    node
        A call of ``softmax`` or ``log_softmax``.
    pieces
        Its operand.
    """
    number = node.args["dim"] % len(pieces.axes.dims)
    if number != pieces.number or not pieces.alone or not node.dtype.is_floating_point:
        return None
    exact = precise(node.dtype)
    inputs = [calls.in_type(node, Ref(name), exact) for name in pieces.names]
    total = log_total(calls, node, inputs, number)
    results: list[Leaf] = []
    for k, leaf in enumerate(inputs):
        name, shape = f"{node.name}.piece{k}", calls.axes_of(leaf).shape
        args = {"self": leaf, "other": total, "alpha": 1}
        found = calls.add(node, f"{name}.log", "aten.sub.Tensor", args, shape, exact)
        if node.kind == "softmax":
            found = calls.add(node, name, "aten.exp.default", {"self": found}, shape, exact)
        results.append(calls.in_type(node, found, node.dtype))
    names = [leaf.value for leaf in results if isinstance(leaf, Ref)]
    return Pieces.along(number, node.shape, names, [length(span) for span in pieces.spans])


def log_total(calls: PieceCalls, node: Node, leaves: Sequence[Leaf], number: int) -> Leaf:
    """The logarithm of the sum of the exponentials along a dimension of all pieces."""
    totals: list[Leaf] = []
    for k, leaf in enumerate(leaves):
        shape = list(calls.axes_of(leaf).shape)
        shape[number] = 1
        args = {"self": leaf, "dim": [number], "keepdim": True}
        name, op = f"{node.name}.total{k}", "aten.logsumexp.default"
        totals.append(calls.add(node, name, op, args, shape, precise(node.dtype)))
    result = totals[0]
    for k, leaf in enumerate(totals[1:], 1):
        args = {"self": result, "other": leaf}
        name, op = f"{node.name}.total0-{k}", "aten.logaddexp.default"
        result = calls.add(node, name, op, args, calls.axes_of(leaf).shape, precise(node.dtype))
    return result


def batch_norm(calls: PieceCalls, node: Node, pieces: Pieces) -> Pieces | None:
    """A batch norm that takes the statistics of all pieces; None if it has fixed ones.

    Parameters
    ----------
    calls
        The calls so far.
    node
        A call of ``batch_norm``.
    pieces
        Its operand.
    """
    if not node.args["training"] or pieces.number < 2 or not pieces.alone:
        return None
    names = []
    for k in range(len(pieces.names)):
        args = {"pieces": [Ref(name) for name in pieces.names], "number": k, **node.args}
        del args["input"]
        if k:  # the statistics of all pieces are recorded once
            args |= {"running_mean": None, "running_var": None}
        name, op = f"{node.name}.piece{k}", "spnb.batch_norm_of_piece.batch_norm"
        calls.add(node, name, op, args, pieces.shape_of(k))
        names.append(name)
    return Pieces(pieces.axes, tuple(names), pieces.spans)
