"""Adds calls to a graph: each gets its axes from its rule, or becomes a constant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from ...ir.axes import Axes
from ...ir.graph import Graph
from ...ir.node import Node, Ref, Weight
from ...ir.region import Span
from ...rules import rule_of

Leaf = Ref | Weight
"""A tensor among the arguments of a call."""


class PieceCalls:
    """The calls of the graph that takes a graph's place.

    Parameters
    ----------
    graph
        The graph; its own calls are added one after another with `add_again`.

    Attributes
    ----------
    nodes, constants
        The calls so far: those that read an input of the network, and the others.
    axes
        Where the axes of the image lie in each value so far.
    """

    def __init__(self, graph: Graph):
        self.nodes: list[Node] = []
        self.constants: list[Node] = list(graph.constants)
        self.axes: dict[str, Axes] = dict(graph.inputs)
        self._types = dict.fromkeys(graph.inputs, graph.dtype)
        self._rank = next(iter(graph.inputs.values())).rank
        self._slices: dict[tuple[Leaf, int, Span], Leaf] = {}

    def add_again(self, node: Node) -> None:
        """Add a call of the graph; its operands may have other axes now."""
        node = self.with_axes(node)
        self.nodes.append(node)
        self.axes[node.name], self._types[node.name] = node.axes, node.dtype

    def with_axes(self, node: Node) -> Node:
        """A call with the axes that its operands have now."""
        operand_axes = tuple(self.axes[value] for value in node.operands)
        if operand_axes == node.operand_axes:
            return node
        node = replace(node, axes=Axes.uncut(node.shape, self._rank), operand_axes=operand_axes)
        return replace(node, axes=rule_of(node).axes)

    def add(
        self,
        like: Node,
        name: str,
        op: str,
        args: Mapping[str, Any],
        shape: Sequence[int],
        dtype: torch.dtype | None = None,
    ) -> Leaf:
        """Add a call, and return its result.

        Parameters
        ----------
        like
            The call that it is a part of: it has the same path, and the same type.
        name
            Name of the result.
        op, args
            The operator's overload, and all of its arguments.
        shape
            Shape of the result.
        dtype
            Type of the result, if it is another.
        """
        axes = Axes.uncut(shape, self._rank)
        node = Node(name, op, dict(args), axes, dtype or like.dtype, (), like.path)
        if not node.operands:
            self.constants.append(node)
            return Weight(f"={name}", tuple(shape))
        self.add_again(node)
        assert self.axes[name].shape == tuple(shape), f"{name} has not the shape {shape}"
        return Ref(name)

    def axes_of(self, leaf: Leaf) -> Axes:
        """Where the axes of the image lie in a tensor."""
        if isinstance(leaf, Ref):
            return self.axes[leaf.value]
        return Axes.uncut(leaf.shape, self._rank)

    def in_type(self, like: Node, leaf: Leaf, dtype: torch.dtype) -> Leaf:
        """A value in another type; the value itself if it has this one, or is a constant."""
        if isinstance(leaf, Weight) or self._types[leaf.value] == dtype:
            return leaf
        args = {"self": leaf, "dtype": dtype, "non_blocking": False, "copy": False}
        name = f"{leaf.value}.{str(dtype).removeprefix('torch.')}"
        args["memory_format"] = None
        return self.add(like, name, "aten.to.dtype", args, self.axes[leaf.value].shape, dtype)

    def sliced(self, like: Node, leaf: Leaf, number: int, span: Span) -> Leaf:
        """A slice of a tensor along a dimension; the same slice is made once."""
        key = (leaf, number, span)
        if key not in self._slices:
            shape = list(self.axes_of(leaf).shape)
            shape[number] = span[1] - span[0]
            of = leaf.value if isinstance(leaf, Ref) else leaf.name.removeprefix("=")
            name = f"{of}.{number}.{span[0]}-{span[1]}"
            args = {"self": leaf, "dim": number, "start": span[0], "end": span[1], "step": 1}
            found = self.add(like, name, "aten.slice.Tensor", args, shape)
            if isinstance(leaf, Weight) and isinstance(found, Weight):
                found = replace(found, alike=leaf.alike and number > 0)
            self._slices[key] = found
        return self._slices[key]

    def mapped(self, like: Node, name: str, op: str, leaf: Leaf, **options: Any) -> Leaf:
        """An elementwise operator on one tensor; its further arguments are ``options``."""
        shape = self.axes_of(leaf).shape
        return self.add(like, name, op, {"self": leaf, **options}, shape)

    def folded(
        self, like: Node, op: str, leaves: Sequence[Leaf], shape: Sequence[int], **options: Any
    ) -> Leaf:
        """An elementwise operator on two tensors, on the first two, then on its result and so on.

        The last result has the name of ``like``.
        """
        result = leaves[0]
        for k, leaf in enumerate(leaves[1:], 2):
            name = like.name if k == len(leaves) else f"{like.name}.first{k}"
            args = {"self": result, "other": leaf, **options}
            result = self.add(like, name, op, args, shape)
        return result
