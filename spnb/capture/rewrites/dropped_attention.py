"""Attention that drops some of its weights, by products, a softmax and a dropout.

PyTorch's operator draws the dropped weights from its generator.  As a call of its own, the dropout
has the mask of `spnb.rules.dropout`, which is the same on any grid of tiles.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from ...ir.axes import Axes
from ...ir.node import Node, Ref


def with_dropped_weights(node: Node, shapes: Sequence[tuple[int, ...]]) -> Iterable[Node]:
    """The calls that compute an attention with dropout; the call itself if it has a mask.

    Parameters
    ----------
    node
        A call of torch.nn.functional.scaled_dot_product_attention.
    shapes
        Shapes of queries, keys and values, if all are known.
    """
    args = node.args
    masked = args["attn_mask"] is not None or args["is_causal"] or args.get("enable_gqa")
    if masked or len(shapes) < 3:
        return [node]
    query, key, _ = shapes
    scores = (*query[:-1], key[-2])
    scale = 1 / math.sqrt(query[-1]) if args["scale"] is None else args["scale"]
    calls: list[Node] = []

    def add(name: str, op: str, shape: tuple[int, ...], /, **given: Any) -> Ref:
        axes = Axes.uncut(shape, node.axes.rank)
        name = f"{node.name}.{name}" if name else node.name
        calls.append(replace(node, name=name, op=f"aten.{op}", args=given, axes=axes))
        return Ref(name)

    turned = (*key[:-2], key[-1], key[-2])
    keys = add("keys", "transpose.int", turned, self=args["key"], dim0=-2, dim1=-1)
    product = add("product", "matmul.default", scores, self=args["query"], other=keys)
    scaled = add("scores", "mul.Tensor", scores, self=product, other=scale)
    weights = add("weights", "softmax.int", scores, self=scaled, dim=-1, dtype=None)
    share = args["dropout_p"]
    dropped = add("dropped", "dropout.default", scores, input=weights, p=share, train=True)
    add("", "matmul.default", node.shape, self=dropped, other=args["value"])
    return calls
