"""Attention that a network computes by products and a softmax, as one call.

The product of queries and keys has a score for each pair of positions.  To compute it, a tile
would need all keys at once.  As one call, the keys of the tiles go round, and the scores of a few
queries are in memory at a time (see `spnb.rules.ring`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch

from ...ir.axes import Axes
from ...ir.node import Node, Ref, Weight
from ...rules import rule_of
from ...rules.attention import Attention
from ...rules.matmul import Labels
from ...rules.views import PERMUTES, order_of
from .added_calls import AddedCalls, Values
from .attention_chain import AttentionChain, Readers
from .joined_tokens import JoinedTokens
from .mixed_heads import of_all_heads
from .placement import with_axes
from .products import Labelled, Tensor


def with_attention(
    nodes: Sequence[Node],
    returned: Sequence[object],
    inputs: Mapping[str, Axes],
    dtype: torch.dtype,
    constants: list[Node],
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
    constants
        The calls that read no input; new ones are added.
    """
    while True:
        found = _with_attention(nodes, returned, inputs, dtype, constants)
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
    constants: list[Node],
) -> list[Node] | None:
    """The same calls with attention as one call; None if there is nothing to change."""
    readers = Readers.among(nodes, returned)
    values = Values(
        axes={**inputs, **{node.name: node.axes for node in nodes}},
        types={**dict.fromkeys(inputs, dtype), **{node.name: node.dtype for node in nodes}},
        constants=constants,
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
    if mixed := {mixing.label for mixing in chain.mixings}:
        if len(mixed) > 1 or not mixed <= set(batch):
            return None
        batch = (*(label for label in batch if label not in mixed), *mixed)
    summed = [label for label in shared if label not in scores]
    query = [label for label in queries.labels if label not in shared]
    key = [label for label in keys.labels if label not in shared]
    if len(query) != 1 or key != [chain.softmax] or len(summed) != 1 or chain.values is None:
        return None
    fits = sorted(chain.values.labels) == sorted((*batch, key[0], "out"))
    fits = fits and sorted(chain.labels) == sorted((*batch, query[0], "out"))
    if (chain.changes_scores or chain.mixed_scores) and scores != (*batch, query[0], key[0]):
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

    def __init__(self, chain: AttentionChain, values: Values, joined: JoinedTokens):
        self._chain, self._values, self._joined = chain, values, joined
        self._last = chain.nodes[-1]
        self._calls = AddedCalls(self._last, values)

    def made(self) -> list[Node] | None:
        """The calls; None if the chain is no attention over positions of the image."""
        chain, calls, roles = self._chain, self._calls, _roles(self._chain)
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
            args = {**call.args, "self": query, "other": factor}
            dtype = self._values.types[query.value]
            query = calls.add(f"scaled{number}", call.op, args, calls.shape(query), dtype)
        bias, read = chain.added.sum(calls, chain.nodes[0].shape), value
        if (mixing := chain.mixed_scores) is not None:
            if bias is not None and not mixing.takes_bias(calls.shape(bias)):
                return None
            query, key = mixing.mixed_queries(calls, query), of_all_heads(calls, key, "key")
            bias = mixing.mixed_bias(calls, bias)
        if chain.mixed_weights is not None:
            read = of_all_heads(calls, value, "value")
        result = self._attention(query, key, read, bias)
        rule = rule_of(calls.nodes[-1])
        if not isinstance(rule, Attention):
            return None
        if not rule.over_positions and not self._over_joined_tokens(roles):
            return None
        if chain.mixed_weights is not None:
            result = chain.mixed_weights.result(calls, result, value)
        result = chain.gate.result(calls, result, value)
        order = [(*batch, roles.query, "out").index(label) for label in chain.labels]
        if order != sorted(order):
            calls.permuted("permuted", result, order)
        return calls.finished()

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
        return None if isinstance(tensor, Weight) else self._calls.permuted(name, tensor, order)

    def _attention(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        """Add the attention."""
        chain, calls = self._chain, self._calls
        args = {
            "query": query,
            "key": key,
            "value": value,
            "attn_mask": bias,
            "masked": chain.masked,
            "fill": chain.fill,
            "scale": chain.scale,
            "dropout_p": 0.0,
            "is_causal": False,
        }
        batch = torch.broadcast_shapes(*(calls.shape(each)[:-2] for each in (query, key, value)))
        shape = (*batch, calls.shape(query)[-2], calls.shape(value)[-1])
        return calls.add("attention", "spnb.attention.written_out", args, shape)
