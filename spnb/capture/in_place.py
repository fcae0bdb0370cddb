"""Turns calls that overwrite a tensor into calls that return a result."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch

from ..errors import CaptureError
from ..ir.node import GETITEM, Node, Ref, Weight, leaves, overload
from ..kernels.compat import arguments_of

UNMARKED = frozenset([
    "cartesian_prod", "dropout", "einsum", "meshgrid", "unsafe_chunk",
    "unsafe_split", "unsafe_split_with_sizes",
])  # fmt: skip
"""Operators that may return memory of their operands, though their schemas do not say so.

PyTorch's own decomposition does not know it either.
"""


class WritesIntoView(Exception):
    """A call overwrites a value that has views."""


class Renamed:
    """Turns in-place calls into calls with a result, which later calls read.

    ``y = relu_(x)`` becomes ``y = relu(x)``, and later calls that read ``x`` read ``y``.

    Parameters
    ----------
    graph
        The graph of torch.export that is read; it says which values are read later.
    """

    def __init__(self, graph: torch.fx.Graph) -> None:
        self.latest: dict[str, str] = {}
        self._shown: dict[str, str] = {}  # view -> the value or weight that it shows
        self._unmarked: dict[str, Node] = {}  # by such a value, the unmarked call that gave it
        self._place = {fx.name: place for place, fx in enumerate(graph.nodes)}
        self._last_read = {
            fx.name: max((self._place[user.name] for user in fx.users), default=-1)
            for fx in graph.nodes
        }

    def now(self, leaf: Any) -> Any:
        """Return a leaf with the current name of its value."""
        if not isinstance(leaf, Ref):
            return leaf
        name = leaf.value
        while name in self.latest:
            name = self.latest[name]
        return Ref(name)

    def add(self, node: Node) -> Node:
        """Return the call as a call that changes no operand.

        Raises
        ------
        WritesIntoView
            If it changes a tensor of which another view is read later, or several tensors.
        CaptureError
            If this view is the result of an operator that is not known to give views.
        """
        namespace, kind, variant = node.op.split(".")
        known = () if node.op == GETITEM else arguments_of(overload(node.op))
        aliases = [(a.name, a.alias_info) for a in known if a.alias_info is not None]
        target = node.args.get(aliases[0][0]) if aliases else None
        if not any(alias.is_write for _, alias in aliases):
            if node.op == GETITEM:
                if isinstance(source := node.args["self"], Ref) and source.value in self._shown:
                    self._shown[node.name] = source.value  # a piece of what was split
            elif kind not in UNMARKED:
                self._shows(node, [target])
            elif not self._is_new(node):
                self._unmarked[node.name] = node
                self._shows(node, leaves(node.args))
            return node
        if isinstance(target, Ref):
            self._refuse_unmarked(target.value, node)
        if len(aliases) > 1 or not isinstance(target, Ref) or self._is_seen(target.value, node):
            raise WritesIntoView(node.label)
        self.latest[target.value] = node.name
        op = f"{namespace}.{kind.removesuffix('_')}.{variant}"
        names = (a.name for a in arguments_of(overload(op)))  # the in-place call may have more
        return replace(node, op=op, args=dict(zip(names, node.args.values(), strict=True)))

    def _shows(self, node: Node, operands: Iterable[object]) -> None:
        """Record that a call's result may share memory with some operands."""
        for leaf in operands:
            if isinstance(leaf, (Ref, Weight)):
                name = leaf.value if isinstance(leaf, Ref) else leaf.name
                if self._root(name) != self._root(node.name):
                    self._shown[self._root(node.name)] = name

    def _is_new(self, node: Node) -> bool:
        """Whether an unmarked operator returns new memory, with these arguments."""
        tensors = [leaf for leaf in leaves(node.args) if isinstance(leaf, (Ref, Weight))]
        drops = bool(node.args.get("train")) and bool(node.args.get("p"))
        return drops if node.kind == "dropout" else node.kind == "einsum" and len(tensors) > 1

    def _refuse_unmarked(self, target: str, node: Node) -> None:
        """Refuse a call that writes to memory which an unmarked operator returned as another."""
        root = self._root(target)
        given = [call for name, call in self._unmarked.items() if self._root(name) == root]
        if given and self._is_seen(target, node):
            raise CaptureError(
                f"{node.label} overwrites what {given[0].label} may share with its operand, and"
                " both are read later: write to a copy (.clone()), or not in place"
            )

    def _root(self, name: str) -> str:
        """The value or weight that a value shows; itself if it is no view."""
        while name in self._shown:
            name = self._shown[name]
        return name

    def _is_seen(self, target: str, node: Node) -> bool:
        """Whether what a call writes to a value is read later under another name than its own."""
        root = self._root(target)
        others = {root, *(view for view in self._shown if self._root(view) == root)} - {target}
        return any(self._is_read_after(node, name) for name in others)

    def _is_read_after(self, node: Node, name: str) -> bool:
        """Whether a value is read after a call; true if that is not known."""
        names = [name, *(old for old in self.latest if self.now(Ref(old)) == Ref(name))]
        if node.name not in self._place or not all(each in self._last_read for each in names):
            return True
        return any(self._last_read[each] > self._place[node.name] for each in names)
