"""Reads the calls of an exported program; in-place calls become calls that return a result."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from ..errors import CaptureError
from ..ir.axes import Axes
from ..ir.node import GETITEM, Node, Ref, Weight, map_leaves, overload
from ..kernels.compat import arguments_of


class WritesIntoView(Exception):
    """A call overwrites a value that has views."""


class ExportReader:
    """Reads the calls of an exported program one by one.

    Parameters
    ----------
    names
        For each name of a parameter or buffer, the one name that it has in the graph.

    Attributes
    ----------
    nodes
        The calls that were read.
    literals
        Tensors that the network makes of numbers in its code, by name.
    counted
        How often a pass adds one to a batch norm's number of batches, by the number's name.
    """

    def __init__(self, program: torch.export.ExportedProgram, names: Mapping[str, str]):
        signature = program.graph_signature
        known = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        self.weights = {value: names.get(name, name) for value, name in known.items()}
        self.given = signature.inputs_to_lifted_tensor_constants
        self.constants = program.constants
        self.user_inputs = set(signature.user_inputs)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.leaves: dict[str, Any] = {}
        self.literals: dict[str, torch.Tensor] = {}
        self.nodes: list[Node] = []
        self.renamed = _Renamed()
        self.counted: dict[str, int] = {}
        self._counters: dict[str, str] = {}  # name of the count that each such call adds to

    def input_axes(self) -> dict[str, Axes]:
        """Axes of each input; the first says how many there are."""
        first = next(iter(self.shapes.values()))
        return {name: Axes.image(shape, len(first) - 1) for name, shape in self.shapes.items()}

    def read(self, fx: torch.fx.Node) -> None:
        """Read one node of the exported graph.

        Raises
        ------
        CaptureError
            If the size of its result depends on the values of a tensor.
        WritesIntoView
            If it overwrites a value that has views.
        """
        value = fx.meta.get("val")
        if fx.op == "placeholder":
            self._placeholder(fx, value)
        elif fx.op != "call_function" or self._counts_batches(fx):
            return
        elif isinstance(value, (torch.Tensor, tuple, list)):
            node = self._node(fx, value)
            self.nodes.append(node if node.op == GETITEM else self.renamed.add(node))
            self.leaves[fx.name] = Ref(fx.name)

    def returned(self, leaf: Any) -> Any:
        """Return an output of the program, by the name that its value has now."""
        if isinstance(leaf, Ref):
            leaf = self.leaves[leaf.value]
        return self.renamed.now(leaf)

    def _counts_batches(self, fx: torch.fx.Node) -> bool:
        """Whether a call adds one to a norm's number of batches, which no value depends on."""
        target = fx.args[0] if fx.args else None
        if fx.target is not torch.ops.aten.add_.Tensor or not isinstance(target, torch.fx.Node):
            return False
        name = self._counters.get(target.name) or self.weights.get(target.name, "")
        if not name.endswith("num_batches_tracked"):
            return False
        self._counters[fx.name] = name
        self.counted[name] = self.counted.get(name, 0) + 1
        return True

    def _placeholder(self, fx: torch.fx.Node, value: Any) -> None:
        if fx.name in self.weights:
            self.leaves[fx.name] = Weight(self.weights[fx.name], tuple(value.shape))
        elif fx.name in self.given:
            name = f"={fx.name}"
            self.literals[name] = self.constants[self.given[fx.name]]
            self.leaves[fx.name] = Weight(name, tuple(value.shape))
        elif fx.name in self.user_inputs and isinstance(value, torch.Tensor):
            self.leaves[fx.name] = Ref(fx.name)
            self.shapes[fx.name] = tuple(value.shape)

    def _node(self, fx: torch.fx.Node, value: Any) -> Node:
        if fx.target is operator.getitem:
            args = {"self": self._plain(fx.args[0]), "index": fx.args[1]}
            op = GETITEM
        else:
            assert callable(fx.target)  # torch.fx names only methods and modules by text
            schema = arguments_of(fx.target)
            given = dict(zip((a.name for a in schema), fx.args, strict=False)) | dict(fx.kwargs)
            args = {a.name: self._plain(given.get(a.name, a.default_value)) for a in schema}
            op = str(fx.target)
        args = {name: map_leaves(self.renamed.now, arg) for name, arg in args.items()}
        stack = list((fx.meta.get("nn_module_stack") or {"": ("", "")}).values())
        values = [value] if isinstance(value, torch.Tensor) else value
        shapes = tuple(tuple(each.shape) for each in values)
        if any(isinstance(n, torch.SymInt) for shape in shapes for n in shape):
            raise CaptureError(
                f"{stack[-1][0] or 'forward'} ({op.split('.')[1]}) gives a result whose size"
                " depends on the values of a tensor, so what follows cannot be planned: use"
                " torch.where, or do this after the network"
            )
        parts = () if isinstance(value, torch.Tensor) else shapes
        axes = Axes.uncut(shapes[0], 1)
        return Node(fx.name, op, args, axes, values[0].dtype, (), stack[-1][0], parts)

    def _plain(self, arg: Any) -> Any:
        if isinstance(arg, torch.fx.Node):
            return self.leaves[arg.name]
        if isinstance(arg, torch.device):  # of the capture; ranks compute on their own devices
            return torch.device("cpu")
        return list(map(self._plain, arg)) if isinstance(arg, (list, tuple)) else arg


class _Renamed:
    """Turns in-place calls into calls with a result, which later calls read.

    ``y = relu_(x)`` becomes ``y = relu(x)``, and later calls that read ``x`` read ``y``.
    """

    def __init__(self) -> None:
        self.latest: dict[str, str] = {}
        self.views: dict[str, str] = {}  # view -> what it is a view of

    def now(self, leaf: Any) -> Any:
        """Return a leaf by the name that its value has now."""
        if not isinstance(leaf, Ref):
            return leaf
        name = leaf.value
        while name in self.latest:
            name = self.latest[name]
        return Ref(name)

    def add(self, node: Node) -> Node:
        """Return a call as one that changes no operand.

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
        names = (a.name for a in arguments_of(overload(op)))  # the in-place call may have others
        return replace(node, op=op, args=dict(zip(names, node.args.values(), strict=True)))
