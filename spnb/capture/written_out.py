"""Attention that a network computes by products and a softmax, as one call.

The product of queries and keys has a score for each pair of positions.  To compute it, a tile
would need all keys at once.  As one call, the keys of the tiles go round, and the scores of a few
queries are in memory at a time (see `spnb.rules.ring`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from ..ir.axes import Axes
from ..ir.node import Node, Ref, Weight
from ..rules import rule_of
from ..rules.attention import Attention
from ..rules.matmul import Labels
from ..rules.views import PERMUTES, order_of
from .attention_chain import AttentionChain, Readers
from .joined_tokens import JoinedTokens
from .placement import with_axes
from .products import Labelled, Tensor


def with_attention(
    nodes: Sequence[Node],
    returned: Sequence[object],
    inputs: Mapping[str, Axes],
    dtype: torch.dtype,
) -> list[Node]:
    """The same calls, with each attention over positions of the image as one call.

    Parameters
    ----------
    nodes
        The calls in order, with their axes.
    returned
        The outputs of the network: values as `Ref`.
    inputs, dtype
        Axes of the network's inputs by name, and their type.
    """
    while True:
        found = _with_attention(nodes, returned, inputs, dtype)
        if found is None:
            return list(nodes)
        # Values may be cut where they were whole before, so that further attention is found.
        axes, nodes = dict(inputs), []
        for node in found:
            nodes.append(with_axes(node, axes, node.axes.rank))
            axes[node.name] = nodes[-1].axes


def _with_attention(
    nodes: Sequence[Node],
    returned: Iterable[object],
    inputs: Mapping[str, Axes],
    dtype: torch.dtype,
) -> list[Node] | None:
    """The same calls with attention as one call; None if there is nothing to change."""
    readers = Readers.among(nodes, returned)
    values = _Values(
        axes={**inputs, **{node.name: node.axes for node in nodes}},
        types={**dict.fromkeys(inputs, dtype), **{node.name: node.dtype for node in nodes}},
    )
    replaced: dict[str, list[Node]] = {}
    joined = JoinedTokens.among(nodes)
    for node in nodes:
        chain = AttentionChain.begun_by(node, readers)
        if chain is None or not chain.reaches_values():
            continue
        calls = _AttentionCall(chain, values, joined).made()
        if calls is not None:
            replaced |= {each.name: [] for each in chain.nodes}
            replaced[chain.nodes[-1].name] = calls
    for node in nodes:  # calls that no output depends on may have read what is gone
        if node.name not in readers.made and any(replaced.get(v) == [] for v in node.operands):
            replaced[node.name] = []
    if not replaced:
        return None
    return [call for node in nodes for call in replaced.get(node.name, [node])]


class _Values(NamedTuple):
    """Axes and types of values, by name."""

    axes: dict[str, Axes]
    types: dict[str, torch.dtype]


class _Roles(NamedTuple):
    """The queries and keys of a chain, and the labels of their dimensions."""

    queries: Labelled
    keys: Labelled
    batch: Labels
    query: str
    key: str
    summed: str


def _roles(chain: AttentionChain) -> _Roles | None:
    """Which factor of the scores has the queries; None if the products are those of no attention.

    The softmax runs over the keys.  All tensors have the same further dimensions, the batch.
    """
    queries, keys, scores = chain.scores.first, chain.scores.second, chain.scores.result
    if chain.softmax in queries.labels:
        queries, keys = keys, queries
    shared = [label for label in queries.labels if label in keys.labels]
    batch = tuple(label for label in scores if label in shared)
    summed = [label for label in shared if label not in scores]
    query = [label for label in queries.labels if label not in shared]
    key = [label for label in keys.labels if label not in shared]
    if len(query) != 1 or key != [chain.softmax] or len(summed) != 1 or chain.values is None:
        return None
    fits = sorted(chain.values.labels) == sorted((*batch, key[0], "out"))
    fits = fits and sorted(chain.labels) == sorted((*batch, query[0], "out"))
    if chain.changes_scores and scores != (*batch, query[0], key[0]):
        return None
    return _Roles(queries, keys, batch, query[0], key[0], summed[0]) if fits else None


class _AttentionCall:
    """Makes the calls that replace a chain.

    Parameters
    ----------
    chain
        The chain, followed to its end.
    values
        The values of the network; those of the new calls are added.
    joined
        Tokens that the plan may hold in pieces.
    """

    def __init__(self, chain: AttentionChain, values: _Values, joined: JoinedTokens):
        self._chain, self._values, self._joined = chain, values, joined
        self._last, self._calls = chain.nodes[-1], list[Node]()

    def made(self) -> list[Node] | None:
        """The calls; None if the chain is no attention over positions of the image."""
        chain, roles = self._chain, _roles(self._chain)
        if roles is None or chain.values is None:
            return None
        batch = roles.batch
        query = self._in_order(roles.queries, (*batch, roles.query, roles.summed), "query")
        key = self._in_order(roles.keys, (*batch, roles.key, roles.summed), "key")
        value = self._in_order(chain.values, (*batch, roles.key, "out"), "value")
        if query is None or key is None or value is None:
            return None
        for number, (call, factor) in enumerate(chain.scaled_by):
            if not isinstance(query, Ref):
                return None
            query = self._scaled(query, call, factor, f"scaled{number}")
        args = {"query": query, "key": key, "value": value}
        attention = self._attention(args, (*batch, roles.query, "out"))
        rule = rule_of(attention)
        if not isinstance(rule, Attention):
            return None
        return self._calls if rule.over_positions or self._over_joined_tokens(roles) else None

    def _over_joined_tokens(self, roles: _Roles) -> bool:
        """Whether the keys may be tokens that the plan holds in pieces."""
        keys = roles.keys.tensor
        if not isinstance(keys, Ref):
            return False
        count = self._values.axes[keys.value].shape[roles.keys.labels.index(roles.key)]
        return self._joined.has(keys.value, count)

    def _in_order(self, given: Labelled, wanted: Labels, name: str) -> Tensor | None:
        """A tensor with its dimensions in another order; None for a weight in the wrong order."""
        order, tensor = [given.labels.index(label) for label in wanted], given.tensor
        if order == sorted(order):
            return tensor
        made = self._chain.readers.made.get(tensor.value) if isinstance(tensor, Ref) else None
        if made is not None and made.kind in PERMUTES:  # both permutations as one
            before = order_of(made)
            order, tensor = [before[k] for k in order], made.args["self"]
        if order == sorted(order):
            return tensor
        if isinstance(tensor, Weight):
            return None
        return Ref(self._permuted(tensor.value, order, f"{self._last.name}.{name}").name)

    def _permuted(self, value: str, order: Sequence[int], name: str) -> Node:
        """Add a permutation of a value's dimensions."""
        args = {"self": Ref(value), "dims": list(order)}
        call = replace(self._last, name=name, op="aten.permute.default", args=args)
        shape = self._values.axes[value].shape
        return self._added(call, [shape[k] for k in order], self._values.types[value])

    def _scaled(self, query: Ref, call: Node, factor: Tensor, name: str) -> Ref:
        """Add a multiplication or division of the queries, in place of that of the scores."""
        args = {**call.args, "self": query, "other": factor}
        call = replace(call, name=f"{self._last.name}.{name}", args=args)
        shape, dtype = self._values.axes[query.value].shape, self._values.types[query.value]
        return Ref(self._added(call, shape, dtype).name)

    def _attention(self, args: Mapping[str, Tensor], labels: Labels) -> Node:
        """Add the attention, and the permutation of its result to the order of the last call's."""
        chain, last = self._chain, self._last
        order = [labels.index(label) for label in chain.labels]
        shape = [last.shape[chain.labels.index(label)] for label in labels]
        in_order = order == sorted(order)
        call = replace(
            last,
            name=last.name if in_order else f"{last.name}.attention",
            op="spnb.attention.written_out",
            args={
                **args,
                "attn_mask": chain.bias,
                "masked": chain.masked,
                "fill": chain.fill,
                "scale": chain.scale,
                "dropout_p": 0.0,
                "is_causal": False,
            },
        )
        attention = self._added(call, shape, last.dtype)
        if not in_order:
            self._permuted(attention.name, order, last.name)
        return attention

    def _added(self, call: Node, shape: Sequence[int], dtype: torch.dtype) -> Node:
        """Add a call with a result of some shape and type."""
        call = replace(call, dtype=dtype, axes=Axes.uncut(shape, self._last.axes.rank))
        call = with_axes(call, self._values.axes, self._last.axes.rank)
        self._values.axes[call.name], self._values.types[call.name] = call.axes, dtype
        self._calls.append(call)
        return call
