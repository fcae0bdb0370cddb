"""Attention of tokens in pieces: a query reads the keys of one piece after another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...ir.node import Node, Ref, Weight
from ...ir.region import Span, length
from ...kernels.attention_state import EXTRA
from ...kernels.sum_types import precise
from .piece_calls import Leaf, PieceCalls
from .pieces import Pieces

ATTENTIONS = ("scaled_dot_product_attention", "attention")
"""PyTorch's operator, and attention that a network writes out."""

MASKS = ("attn_mask", "masked")
"""Arguments that have a row for each query and a column for each key."""


def attention(calls: PieceCalls, node: Node, held: Mapping[str, Pieces]) -> Pieces | Leaf | None:
    """Attention over keys and values in pieces; None for any other call.

    Parameters
    ----------
    calls
        The calls so far.
    node
        A call.
    held
        Those of its operands that are in pieces.
    """
    if node.kind not in ATTENTIONS:
        return None
    args = node.args
    queries, keys, values = (_tokens(args[name], held) for name in ("query", "key", "value"))
    if args.get("is_causal") or args.get("dropout_p") or not (keys and values):
        return None
    in_pieces = {pieces and pieces.names for pieces in (queries, keys, values)}
    others = [value for value, pieces in held.items() if pieces.names not in in_pieces]
    if keys.spans != values.spans or others:
        return None
    over = _OverPieces(calls, node, keys, values)
    if queries is None:
        return over.attended(node.name, args["query"], None, node.shape)
    names = []
    for k, (name, span) in enumerate(zip(queries.names, queries.spans, strict=True)):
        shape = (*node.shape[:-2], length(span), node.shape[-1])
        result = over.attended(f"{node.name}.piece{k}", Ref(name), span, shape)
        names.append(result.value)
    sizes = [length(span) for span in queries.spans]
    return Pieces.along(len(node.shape) - 2, node.shape, names, sizes)


def _tokens(leaf: Any, held: Mapping[str, Pieces]) -> Pieces | None:
    """The pieces of queries, keys or values, if they are in pieces along their tokens."""
    pieces = held.get(leaf.value) if isinstance(leaf, Ref) else None
    if pieces is None or not pieces.alone or pieces.number != len(pieces.axes.dims) - 2:
        return None
    return pieces


class _OverPieces:
    """Attention over the pieces of keys and values.

    Parameters
    ----------
    calls
        The calls so far.
    node
        The call of attention.
    keys, values
        Its keys and values.
    """

    def __init__(self, calls: PieceCalls, node: Node, keys: Pieces, values: Pieces):
        self._calls, self._node, self._keys, self._values = calls, node, keys, values

    def attended(self, name: str, query: Leaf, rows: Span | None, shape: tuple[int, ...]) -> Ref:
        """The attention of some queries over all pieces.

        Parameters
        ----------
        name
            Of the result.
        query
            The queries.
        rows
            Their numbers, if they are some of all queries: masks have a row for each of all.
        shape
            Shape of the result.
        """
        state: Leaf | None = None
        of_state = (*shape[:-1], shape[-1] + EXTRA)
        for k, columns in enumerate(self._keys.spans):
            args = {**self._node.args, "query": query, "state": state}
            args["key"], args["value"] = Ref(self._keys.names[k]), Ref(self._values.names[k])
            for mask in MASKS:
                if isinstance(leaf := args.get(mask), (Ref, Weight)):
                    args[mask] = self._mask_of(leaf, rows, columns)
            op, dtype = f"spnb.attention_part.{self._node.kind}", precise(self._node.dtype)
            state = self._calls.add(self._node, f"{name}.part{k}", op, args, of_state, dtype)
        args = {"state": state, "of": self._node}
        result = self._calls.add(self._node, name, "spnb.attention_result.default", args, shape)
        assert isinstance(result, Ref)  # it reads values
        return result

    def _mask_of(self, mask: Leaf, rows: Span | None, columns: Span) -> Leaf:
        """The part of a mask for some queries and some keys."""
        for back, span in ((2, rows), (1, columns)):
            shape = self._calls.axes_of(mask).shape
            if span is not None and len(shape) >= back and shape[-back] > 1:
                mask = self._calls.sliced(self._node, mask, len(shape) - back, span)
        return mask
