"""Reads the calls of an exported program; in-place calls become calls that return a result.

Calls that contain other calls, such as a region of ``torch.autocast``, are read by
`spnb.capture.regions`.  Arithmetic on numbers that a network reads from tensors becomes calls on
tensors, in `spnb.capture.scalars`.  The module is longer than 300 lines since every kind of call
that an exported program may have is read here.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import CaptureError
from ..ir.axes import Axes
from ..ir.node import GETITEM, Node, Ref, Weight, leaves, map_leaves, overload
from ..kernels.compat import FakeTensor, HigherOrderOperator, arguments_of
from . import autocast, regions, scalars
from .in_place import Renamed

_TO = "aten._to_copy.default"

OF_KNOWN_SIZE = {
    "bincount": "torch.nn.functional.one_hot(x, n).sum(0), or torch.histc",
    "_unique2": "torch.histc",
}
"""What has the same use as a call, and gives a result of a known size."""


def out_of_sight(name: str, tensor: torch.Tensor) -> CaptureError:
    """The error for a tensor without values that torch.export took for a constant."""
    return CaptureError(
        f"the network computes with a tensor of shape {tuple(tensor.shape)}, {name}, in a way that"
        " torch.export does not record, so the plan would lack it: use x.detach() and tensor"
        " operators only"
    )


@dataclass(frozen=True)
class Scope:
    """A graph of torch.export that is being read: the network's, or that of a region in it.

    Attributes
    ----------
    module
        The module that has the graph, and the graphs of the regions in it.
    leaves
        By name in the graph, the value or object that it stands for.
    prefix
        Text before the names of its calls, so that names of different regions differ.
    path
        Path of the network's module that called the region.
    precision
        The type that ``torch.autocast`` casts to; None outside its regions.
    """

    module: torch.fx.GraphModule
    leaves: dict[str, Any]
    prefix: str = ""
    path: str = ""
    precision: torch.dtype | None = None


class ExportReader:
    """Reads the calls of an exported program one by one.

    Parameters
    ----------
    names
        For each name of a parameter or buffer, its only name in the graph.
    training
        Whether the network is captured for training.

    Attributes
    ----------
    nodes
        The calls that were read.
    literals
        Tensors that the network makes from numbers in its code, by name.
    counted
        By the name of a batch norm's ``num_batches_tracked``: how often a pass adds one to it.
    numbers
        The values that are numbers, not tensors, in the network's code.
    scope
        The graph that is being read.
    """

    def __init__(
        self,
        program: torch.export.ExportedProgram,
        names: Mapping[str, str],
        training: bool = False,
    ):
        signature = program.graph_signature
        known = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        self.weights = {value: names.get(name, name) for value, name in known.items()}
        self.given = signature.inputs_to_lifted_tensor_constants
        self.constants = program.constants
        self.user_inputs = set(signature.user_inputs)
        self.training = training
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.literals: dict[str, torch.Tensor] = {}
        self.nodes: list[Node] = []
        self.renamed = Renamed(program.graph)
        self.counted: dict[str, int] = {}
        self.numbers: set[Ref] = set()
        self.scope = Scope(program.graph_module, {})
        self._counters: dict[str, str] = {}  # by call: the count that it adds one to

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
        elif isinstance(fx.target, HigherOrderOperator):
            self.scope.leaves[fx.name] = regions.result_of(self, fx)
        elif isinstance(value, scalars.Symbol):
            self.scope.leaves[fx.name] = scalars.number_of(self, fx, value)
        elif fx.target is operator.getitem and isinstance(results := self.leaf(fx.args[0]), list):
            assert isinstance(fx.args[1], int)
            self.scope.leaves[fx.name] = results[fx.args[1]]  # an item of a region's results
        elif isinstance(value, (torch.Tensor, tuple, list)):
            self.scope.leaves[fx.name] = self._call(fx, value)

    def returned(self, leaf: object) -> object:
        """Return an output of the program, by the current name of its value.

        Raises
        ------
        CaptureError
            If it is a number, and no tensor.
        """
        if isinstance(leaf, Ref):
            leaf = self.scope.leaves[leaf.value]
        if self.is_number(leaf):
            raise CaptureError(
                "the network returns a number that it reads from a tensor (.item()): return the"
                " tensor itself"
            )
        return self.renamed.now(leaf)

    def inline(
        self,
        module: torch.fx.GraphModule,
        given: Sequence[Any],
        fx: torch.fx.Node,
        name: str = "",
        precision: torch.dtype | None = None,
    ) -> Any:
        """Read the calls of a region as if they were in the graph; return the region's results.

        Parameters
        ----------
        module
            The region.
        given
            The values for its inputs.
        fx
            The call of the region.
        name
            Name of the region, if a call has several.
        precision
            The type that ``torch.autocast`` casts to in it.
        """
        outer = self.scope
        prefix = f"{outer.prefix}{fx.name}.{name}"
        self.scope = Scope(module, {}, prefix, self.path_of(fx), precision)
        inputs = iter(given)
        try:
            for inner in module.graph.nodes:
                if inner.op == "placeholder":
                    self.scope.leaves[inner.name] = next(inputs)
                elif inner.op == "output":
                    return self.leaf(inner.args[0])
                else:
                    self.read(inner)
        finally:
            self.scope = outer
        return None

    def leaf(self, arg: Any) -> Any:
        """The value of an argument in the current graph; tuples become lists."""
        if isinstance(arg, torch.fx.Node):
            if arg.op == "get_attr":
                return self._attribute(arg)
            return map_leaves(self.renamed.now, self.scope.leaves[arg.name])
        if isinstance(arg, torch.device):  # the capture's device; ranks use their own
            return torch.device("cpu")
        return list(map(self.leaf, arg)) if isinstance(arg, (list, tuple)) else arg

    def is_number(self, leaf: object) -> bool:
        """Whether a leaf is a number in the network's code, and not a tensor."""
        return isinstance(leaf, Ref) and leaf in self.numbers

    def path_of(self, fx: torch.fx.Node) -> str:
        """The module of the network that a call came from."""
        stack = list((fx.meta.get("nn_module_stack") or {}).values())
        return stack[-1][0] if stack else self.scope.path

    def add(
        self,
        name: str,
        op: str,
        args: Mapping[str, Any],
        value: torch.Tensor | Sequence[torch.Tensor],
        path: str,
    ) -> Ref:
        """Add a call; tensors without memory give the shape and the type of its result."""
        results = [value] if isinstance(value, torch.Tensor) else value
        shapes = tuple(tuple(each.shape) for each in results)
        parts = () if isinstance(value, torch.Tensor) else shapes
        axes = Axes.uncut(shapes[0], 1)
        node = Node(name, op, dict(args), axes, results[0].dtype, (), path, parts)
        keeps = op.startswith("higher_order.")
        self.nodes += [node] if keeps else self.renamed.add(node)
        return Ref(name)

    def cast(
        self, leaf: Any, dtype: torch.dtype, shape: Sequence[int], name: str, path: str
    ) -> Ref:
        """Add a call that gives a value in another type."""
        names = (argument.name for argument in arguments_of(overload(_TO)))
        args = {**dict.fromkeys(names), "self": leaf, "dtype": dtype}
        like = torch.empty(shape, dtype=dtype, device="meta")
        return self.add(name, _TO, args | {"non_blocking": False}, like, path)

    def _attribute(self, fx: torch.fx.Node) -> Any:
        """A region, or a tensor in one."""
        found = operator.attrgetter(str(fx.target))(self.scope.module)
        if not isinstance(found, torch.Tensor):
            return found
        if isinstance(found, FakeTensor):
            raise out_of_sight(str(fx.target), found)
        name = f"={self.scope.prefix}{fx.name}"
        self.literals[name] = found
        return Weight(name, tuple(found.shape))

    def _counts_batches(self, fx: torch.fx.Node) -> bool:
        """Whether a call adds one to a norm's number of batches; no value depends on that."""
        target = fx.args[0] if fx.args else None
        if fx.target is not torch.ops.aten.add_.Tensor or not isinstance(target, torch.fx.Node):
            return False
        prefix, leaf = self.scope.prefix, self.scope.leaves.get(target.name)
        known = leaf.name if isinstance(leaf, Weight) else ""  # in a region, it is an operand
        name = self._counters.get(f"{prefix}{target.name}", known)
        if not name.endswith("num_batches_tracked"):
            return False
        self._counters[f"{prefix}{fx.name}"] = name
        self.counted[name] = self.counted.get(name, 0) + 1
        return True

    def _placeholder(self, fx: torch.fx.Node, value: Any) -> None:
        leaves = self.scope.leaves
        if fx.name in self.weights:
            leaves[fx.name] = Weight(self.weights[fx.name], tuple(value.shape))
        elif fx.name in self.given:
            name = f"={fx.name}"
            self.literals[name] = self.constants[self.given[fx.name]]
            leaves[fx.name] = Weight(name, tuple(value.shape))
        elif fx.name in self.user_inputs and isinstance(value, torch.Tensor):
            leaves[fx.name] = Ref(fx.name)
            self.shapes[fx.name] = tuple(value.shape)

    def _call(self, fx: torch.fx.Node, value: Any) -> Ref:
        """Add a call of an operator."""
        args: Mapping[str, Any]
        name, path = f"{self.scope.prefix}{fx.name}", self.path_of(fx)
        if fx.target is operator.getitem:
            args = {"self": self.leaf(fx.args[0]), "index": fx.args[1]}
            return self.add(name, GETITEM, args, value, path)
        assert callable(fx.target)  # only methods and modules are texts in torch.fx
        op, schema = str(fx.target), arguments_of(fx.target)
        every = [value] if isinstance(value, torch.Tensor) else value
        if any(isinstance(n, torch.SymInt) for each in every for n in each.shape):
            raise CaptureError(
                f"{path or 'forward'} ({op.split('.')[1]}) gives a result whose size"
                " depends on the values of a tensor, so what follows cannot be planned: use"
                f" {OF_KNOWN_SIZE.get(op.split('.')[1], 'torch.where')}, or do this after the"
                " network"
            )
        if any(each.layout != torch.strided for each in every):
            raise CaptureError(
                f"{path or 'forward'} ({op.split('.')[1]}) gives a sparse tensor, which has no"
                " tiles: use dense tensors"
            )
        given = dict(zip((a.name for a in schema), fx.args, strict=False)) | dict(fx.kwargs)
        args = {a.name: self.leaf(given.get(a.name, a.default_value)) for a in schema}
        args = autocast.cast_in_region(self, fx, args)
        if any(map(self.is_number, leaves(args))):
            return scalars.call_with_numbers(self, fx, op, args, value)
        return self.add(name, op, args, value, path)
