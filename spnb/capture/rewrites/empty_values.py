"""Removes tensors without elements, which a network makes to fill up what needs no filling."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ...ir.node import Node, Ref
from .joined_tokens import CONCATENATIONS


def without_empty_values(nodes: Sequence[Node], returned: Iterable[object]) -> list[Node]:
    """The same calls, where no concatenation has an empty tensor.

    Parameters
    ----------
    nodes
        The calls, in order.
    returned
        The outputs of the network: values as `Ref`.

    Returns
    -------
    list of Node
        Calls with an empty result are left out, if nothing else reads it.
    """
    empty = {node.name for node in nodes if not node.parts and 0 in node.shape}
    if not empty:
        return list(nodes)
    read = {leaf.value for leaf in returned if isinstance(leaf, Ref)}
    kept: list[Node] = []
    for node in reversed(nodes):
        if node.name in empty and node.name not in read:
            continue
        if node.kind in CONCATENATIONS:
            node = _without(node, empty)
        read.update(node.operands)
        kept.append(node)
    return kept[::-1]


def _without(node: Node, empty: set[str]) -> Node:
    """A concatenation without the empty tensors, unless all of them are empty."""
    tensors = node.args["tensors"]
    filled = [leaf for leaf in tensors if not isinstance(leaf, Ref) or leaf.value not in empty]
    if len(filled) == 1:
        return replace(node, op="aten.alias.default", args={"self": filled[0]})
    return replace(node, args={**node.args, "tensors": filled}) if filled else node
