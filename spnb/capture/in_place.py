"""Turns calls that overwrite a tensor into calls that return a result."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..ir.node import Node, Ref, Weight, overload
from ..kernels.compat import arguments_of


class WritesIntoView(Exception):
    """A call overwrites a value that has views."""


class Renamed:
    """Turns in-place calls into calls with a result, which later calls read.

    ``y = relu_(x)`` becomes ``y = relu(x)``, and later calls that read ``x`` read ``y``.
    """

    def __init__(self) -> None:
        self.latest: dict[str, str] = {}
        self.views: dict[str, str] = {}  # view -> the value or weight that it shows

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
            If it changes a tensor that has views, or several tensors.
        """
        namespace, kind, variant = node.op.split(".")
        arguments = arguments_of(overload(node.op))
        aliases = [(a.name, a.alias_info) for a in arguments if a.alias_info is not None]
        target = node.args.get(aliases[0][0]) if aliases else None
        if not any(alias.is_write for _, alias in aliases):
            if isinstance(target, Ref):
                self.views[node.name] = self.views.get(target.value, target.value)
            elif isinstance(target, Weight):
                self.views[node.name] = target.name
            return node
        if (
            len(aliases) > 1
            or not isinstance(target, Ref)
            or target.value in self.views
            or target.value in self.views.values()
        ):
            raise WritesIntoView(node.label)
        self.latest[target.value] = node.name
        op = f"{namespace}.{kind.removesuffix('_')}.{variant}"
        names = (a.name for a in arguments_of(overload(op)))  # the in-place call may have more
        return replace(node, op=op, args=dict(zip(names, node.args.values(), strict=True)))
