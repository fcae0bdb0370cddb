"""Calls that treat all positions alike: made once for each piece.

Whether a call does so follows from its rule.  The rule is asked as if the positions were an axis of
the image: it must read, for the positions of a piece, just these positions of its operands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...ir.axes import Axes, Factor, axes_in
from ...ir.node import Node, Ref, Weight, map_leaves
from ...ir.region import Span
from ...rules import Direct, Local, Rule, rule_of
from ...rules.attention import Attention
from ...rules.convolutions import Convolution
from ...rules.dropout import Dropout, PieceOf
from ...rules.elementwise import Joined
from ...rules.matmul import Product
from ...rules.merged.reductions import Reduction
from ...rules.rearrange import Rolled
from ...rules.ring import RingAttention
from ...rules.slices import Scattered
from ...rules.views import Expand, Repeat, Reshape
from .piece_calls import Leaf, PieceCalls
from .pieces import POSITIONS, RANK, Pieces, shape_within

ALIKE = (
    Rule, Local, Joined, Product, RingAttention, Convolution, Reduction, Reshape, Expand, Repeat,
    Dropout, Rolled, Scattered,
)  # fmt: skip
"""Rules of operators that can be called on a piece; others count positions, or look at several."""


@dataclass(frozen=True)
class PieceByPiece:
    """How a call is made for each piece.

    Attributes
    ----------
    rule
        The call's rule, with the positions as an axis.
    spans
        The positions of each piece of the result.
    cuts
        Tensors that are not in pieces, but of which each piece reads a slice: the dimension.
    """

    rule: Rule
    spans: tuple[Span, ...]
    cuts: Mapping[Leaf, int]


def rule_in_positions(node: Node, held: Mapping[str, Pieces]) -> Rule:
    """The rule of a call, if the positions of values in pieces were an axis of the image."""
    shapes = zip(node.operands, node.operand_shapes, strict=True)
    axes = tuple(
        held[value].axes if value in held else Axes.uncut(shape, RANK) for value, shape in shapes
    )
    return rule_of(replace(node, axes=Axes.uncut(node.shape, RANK), operand_axes=axes))


def piece_by_piece(node: Node, held: Mapping[str, Pieces]) -> PieceByPiece | None:
    """How a call is made for each piece of its operands; None if it looks at several at a time.

    Parameters
    ----------
    node
        The call.
    held
        Those of its operands that are in pieces.
    """
    rule = rule_in_positions(node, held)
    if type(rule) not in ALIKE or node.parts or POSITIONS not in rule.axes.present:
        return None
    found = {_spans(rule, k, held[v]) for k, v in enumerate(node.operands) if v in held}
    spans, cuts = found.pop(), _cuts(rule, held)
    if found or spans is None or cuts is None:
        return None
    if isinstance(rule, Dropout) and not _counts_elements(rule):
        return None
    if isinstance(rule, Scattered) and rule.axes.axes_of(rule.number):
        return None  # it counts positions
    if isinstance(rule, Attention) and node.args["is_causal"]:
        return None
    return PieceByPiece(rule, spans, cuts)


def _spans(rule: Rule, operand: int, pieces: Pieces) -> tuple[Span, ...] | None:
    """The positions of the result that read those of each piece; None if they read others too."""
    n, m = pieces.total, rule.axes.extent[POSITIONS]
    if rule.gathers(operand, POSITIONS) or any(end * m % n for _, end in pieces.spans):
        return None
    spans = tuple((start * m // n, end * m // n) for start, end in pieces.spans)
    reads = (rule.need(operand, POSITIONS, span) for span in spans)
    return spans if tuple(reads) == pieces.spans else None


def _cuts(rule: Rule, held: Mapping[str, Pieces]) -> dict[Leaf, int] | None:
    """By tensor that is not in pieces: the dimension of which each piece reads its own slice.

    None if the dimension holds other positions as well, or if a tensor occurs twice and differs.
    """
    node, found = rule.node, dict[Leaf, int | None]()
    targets: list[tuple[Leaf, Sequence[int], Axes | None]] = [
        (Ref(value), axes.shape, _cut_with_result(rule, k))
        for k, (value, axes) in enumerate(zip(node.operands, node.operand_axes, strict=True))
        if value not in held
    ]
    targets += [(weight, weight.shape, rule.against(weight)) for weight in node.weights]
    for leaf, shape, target in targets:
        there = target.dims[len(target.dims) - len(shape) :] if target else ()
        numbers = [
            number
            for number, (size, factors) in enumerate(zip(shape, there, strict=False))
            if size > 1 and POSITIONS in axes_in(factors)
        ]
        number = numbers[0] if numbers else None
        others = number is not None and there[number] != (Factor(shape[number], POSITIONS),)
        if others or found.setdefault(leaf, number) != number:
            return None
    return {leaf: number for leaf, number in found.items() if number is not None}


def _cut_with_result(rule: Rule, operand: int) -> Axes | None:
    """The axes that an operand is broadcast against; None if it is not broadcast."""
    if isinstance(rule, Product):
        return rule.cut_with_result(operand)
    return None if isinstance(rule, Direct) else rule.axes


def _counts_elements(rule: Dropout) -> bool:
    """Whether the mask of a piece can be cut from the mask of the whole value."""
    where = [k for k in range(len(rule.axes.dims)) if rule.axes.axes_of(k)]
    return rule.node.kind == "dropout" and len(rule.axes.dims[where[0]]) == 1


def in_each_piece(
    calls: PieceCalls, node: Node, held: Mapping[str, Pieces], how: PieceByPiece
) -> Pieces:
    """Make a call for each piece, and return its result in pieces."""
    axes, names = how.rule.axes, list[str]()
    for k, span in enumerate(how.spans):

        def piece(leaf: Any, k: int = k, span: Span = span) -> Any:
            if isinstance(leaf, Ref) and leaf.value in held:
                return Ref(held[leaf.value].names[k])
            if isinstance(leaf, (Ref, Weight)) and leaf in how.cuts:
                return calls.sliced(node, leaf, how.cuts[leaf], span)
            return leaf

        args = {name: map_leaves(piece, arg) for name, arg in node.args.items()}
        shape = shape_within(axes, span)
        op, args = _of_piece(how, span, args, shape)
        result = calls.add(node, f"{node.name}.piece{k}", op, args, shape)
        assert isinstance(result, Ref)  # it reads a piece
        names.append(result.value)
    return Pieces(axes, tuple(names), how.spans)


def _of_piece(
    how: PieceByPiece, span: Span, args: dict[str, Any], shape: Sequence[int]
) -> tuple[str, dict[str, Any]]:
    """The operator and the arguments that compute a piece of this shape."""
    rule, node = how.rule, how.rule.node
    if isinstance(rule, Reshape):
        return "aten.reshape.default", {"self": args["self"], "shape": list(shape)}
    if isinstance(rule, Expand) and not isinstance(rule, Repeat):
        return "aten.expand.default", {"self": args["self"], "size": list(shape), "implicit": False}
    if isinstance(rule, Dropout):
        along = next(k for k in range(len(shape)) if rule.axes.axes_of(k))
        args |= {"layer": node.name, "piece": PieceOf(along, span[0], node.shape[along])}
        return "spnb.dropout_of_piece.default", args
    return node.op, args
