"""Turns calls that overwrite a tensor into calls that return a result."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Any

import torch

from ..errors import CaptureError
from ..ir.node import GETITEM, Node, Ref, Weight, leaves, overload
from ..kernels.compat import arguments_of
from .written_views import written_back

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

    ``y = relu_(x)`` becomes ``y = relu(x)``, and later calls that read ``x`` read ``y``.  After
    ``v = x[:, 0]``, ``v.relu_()`` becomes two calls: ``w = relu(v)``, and one that writes ``w``
    into ``x`` (see `spnb.capture.written_views`).

    Parameters
    ----------
    graph
        The graph of torch.export that is read; it says which values are read later.

    Attributes
    ----------
    latest
        By the name of a value that was overwritten, the name of its next value.
    """

    def __init__(self, graph: torch.fx.Graph) -> None:
        self.latest: dict[str, str] = {}
        self._before: dict[str, list[str]] = {}  # by name, the names of a value before it
        self._made: dict[str, Node] = {}  # by name, the call that made a value
        self._added: set[str] = set()  # names of values that the graph does not have
        self._shown: dict[str, str] = {}  # view -> the value or weight that it shows
        self._views: dict[str, list[str]] = {}  # by a value that is no view: the views of it
        self._unmarked: dict[str, Node] = {}  # by such a value, the unmarked call that gave it
        self._place = {fx.name: place for place, fx in enumerate(graph.nodes)}
        self._last_read = {
            fx.name: max((self._place[user.name] for user in fx.users), default=-1)
            for fx in graph.nodes
        }

    def now(self, leaf: Any) -> Any:
        """Return a leaf with the current name of its value."""
        return Ref(self._now(leaf.value)) if isinstance(leaf, Ref) else leaf

    def _now(self, name: str) -> str:
        while name in self.latest:
            name = self.latest[name]
        return name

    def add(self, node: Node) -> list[Node]:
        """Return the call as calls that change no operand; the first has the name of the call.

        Raises
        ------
        WritesIntoView
            If it changes several tensors, or one of which a view is read later that cannot be
            written to.
        CaptureError
            If this view is the result of an operator that is not known to give views.
        """
        namespace, kind, variant = node.op.split(".")
        known = () if node.op == GETITEM else arguments_of(overload(node.op))
        aliases = [(a.name, a.alias_info) for a in known if a.alias_info is not None]
        target = node.args.get(aliases[0][0]) if aliases else None
        self._made[node.name] = node
        if not any(alias.is_write for _, alias in aliases):
            if node.op == GETITEM:
                if isinstance(source := node.args["self"], Ref) and source.value in self._shown:
                    self._shows(node, [source])  # a piece of what was split
            elif kind not in UNMARKED:
                self._shows(node, [target])
            elif not self._is_new(node):
                self._unmarked[node.name] = node
                self._shows(node, leaves(node.args))
            return [node]
        if isinstance(target, Ref):
            self._refuse_unmarked(target.value, node)
        if len(aliases) > 1 or not isinstance(target, Ref):
            raise WritesIntoView(node.label)
        into = self._written_back(target.value, node) if self._is_seen(target.value, node) else []
        self._replace(target.value, node.name)
        op = f"{namespace}.{kind.removesuffix('_')}.{variant}"
        names = (a.name for a in arguments_of(overload(op)))  # the in-place call may have more
        args = dict(zip(names, node.args.values(), strict=True))
        return [replace(node, op=op, args=args), *into]

    def _replace(self, old: str, new: str) -> None:
        """From now on a value has another name."""
        self.latest[old] = new
        self._before[new] = [*self._before.pop(old, []), old]
        if old in self._views:
            self._views[new] = self._views.pop(old)

    def _written_back(self, view: str, node: Node) -> list[Node]:
        """The calls that write what a call has changed into the values that its target shows."""
        chain = [view]
        while (shown := self._shown.get(chain[-1])) is not None:
            chain.append(self._now(shown))
        if any(self._is_read_after(node, other) for other in self._others(chain[-1], chain)):
            raise WritesIntoView(node.label)
        calls: list[Node] = []
        changed, made = node.name, self._made.get(view)
        for number, name in enumerate(chain[1:]):
            source, after = self._made.get(name), f"{node.name}.into{number}"
            if made is None or source is None:
                raise WritesIntoView(node.label)
            call = written_back(made, source, Ref(name), Ref(changed), after)
            if call is None:
                raise WritesIntoView(node.label)
            calls.append(call)
            # What was changed is a view of the result, as it was of the value before.
            self._made[changed], self._made[after] = made, source
            self._shown[changed] = after
            self._added.add(after)
            self._replace(name, after)
            changed, made = after, source
        self._views.setdefault(changed, []).extend([node.name, *(c.name for c in calls[:-1])])
        return calls

    def _shows(self, node: Node, operands: Iterable[object]) -> None:
        """Record that a call's result may share memory with some operands."""
        for leaf in operands:
            if isinstance(leaf, (Ref, Weight)):
                name = leaf.value if isinstance(leaf, Ref) else leaf.name
                root, mine = self._root(name), self._root(node.name)
                if root != mine:
                    self._shown[mine] = name
                    self._views.setdefault(root, []).extend([mine, *self._views.pop(mine, [])])

    def _is_new(self, node: Node) -> bool:
        """Whether an unmarked operator returns new memory, with these arguments."""
        tensors = [leaf for leaf in leaves(node.args) if isinstance(leaf, (Ref, Weight))]
        drops = bool(node.args.get("train")) and bool(node.args.get("p"))
        return drops if node.kind == "dropout" else node.kind == "einsum" and len(tensors) > 1

    def _refuse_unmarked(self, target: str, node: Node) -> None:
        """Refuse a call that writes to memory which an unmarked operator returned as another."""
        if not self._unmarked:
            return
        root = self._root(target)
        given = [call for name, call in self._unmarked.items() if self._root(name) == root]
        if given and self._is_seen(target, node):
            raise CaptureError(
                f"{node.label} overwrites what {given[0].label} may share with its operand, and"
                " both are read later: write to a copy (.clone()), or not in place"
            )

    def _root(self, name: str) -> str:
        """The value or weight that a value shows, by its current name; itself if it is no view."""
        name = self._now(name)
        while name in self._shown:
            name = self._now(self._shown[name])
        return name

    def _others(self, root: str, own: Collection[str]) -> set[str]:
        """The current names of a value and its views, without some."""
        return {root, *map(self._now, self._views.get(root, []))}.difference(own)

    def _is_seen(self, target: str, node: Node) -> bool:
        """Whether what a call writes to a value is read later under another name than its own."""
        others = self._others(self._root(target), [target])
        return any(self._is_read_after(node, name) for name in others)

    def _is_read_after(self, node: Node, name: str) -> bool:
        """Whether a value is read after a call; true if that is not known."""
        names = {name, *self._before.get(name, [])} - self._added
        if node.name not in self._place or not all(each in self._last_read for each in names):
            return True
        return any(self._last_read[each] > self._place[node.name] for each in names)
