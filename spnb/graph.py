"""Captures a network into nodes with shapes, without computing or allocating anything.

`capture` runs `torch.export` on the meta device, where tensors have shapes but no memory: a
65,536² image costs as little to plan as a 32² one.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from .blocks import Block, blocks_of
from .node import GETITEM, Extent, Node, Ref, Weight, extent_of, map_leaves, overload


class CaptureError(ValueError):
    """The network cannot be captured as a graph of operators."""


@dataclass(frozen=True)
class Graph:
    """A captured network.

    Attributes
    ----------
    inputs
        Shape of each input by its name.
    nodes
        Operator calls in the order of execution.
    outputs
        Names of the values that the network returns, flattened.
    blocks
        The module's building blocks, in order: stages are cut between them.
    structure
        How the flattened outputs are put together again (a pytree specification).
    """

    inputs: Mapping[str, tuple[int, ...]]
    dtype: torch.dtype
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    blocks: tuple[Block, ...]
    structure: Any = field(repr=False, default=None)

    @cached_property
    def by_name(self) -> dict[str, Node]:
        """Each node by the name of the value it computes."""
        return {node.name: node for node in self.nodes}

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every value, inputs included."""
        return {**self.inputs, **{node.name: node.shape for node in self.nodes}}

    @property
    def batch(self) -> int:
        """Images in a batch."""
        return next(iter(self.inputs.values()))[0]

    def extent(self, value: str) -> Extent:
        """Sizes of a value along ``(batch, *spatial)``."""
        return extent_of(self.shapes[value])

    def channels(self, value: str) -> int:
        """Elements at each position of ``(batch, *spatial)``."""
        shape = self.shapes[value]
        return shape[1] if len(shape) > 1 else 1

    def itemsize(self, value: str) -> int:
        """Bytes of an element."""
        dtype = self.by_name[value].dtype if value in self.by_name else self.dtype
        return dtype.itemsize


def capture(module: nn.Module, shape: tuple[int, ...], dtype: torch.dtype) -> Graph:
    """Capture a network, in evaluation mode, at one input shape.

    Parameters
    ----------
    module
        Any module that `torch.export` captures; it is not changed.
    shape
        Of the input: ``(batch, channels, *spatial)``.
    dtype
        Floating type that the network is run in.

    Raises
    ------
    CaptureError
        With the reason and a way out, where the network cannot be captured.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU())
    >>> graph = capture(net, (1, 3, 65536, 65536), torch.float32)
    >>> [(node.kind, node.shape) for node in graph.nodes]
    [('conv2d', (1, 8, 32768, 32768)), ('relu', (1, 8, 32768, 32768))]
    """
    meta = rebuilt(module, lambda t: torch.empty_like(t, device="meta", dtype=cast(t, dtype)))
    example = torch.empty(shape, dtype=dtype, device="meta")
    try:
        with torch.no_grad(), torch.device("meta"):
            program = torch.export.export(meta, (example,), strict=False)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise CaptureError(
            f"{type(module).__name__} cannot run or be captured at input shape {tuple(shape)}:"
            f" {reason}"
        ) from error
    return _translate(program, meta, dtype)


def rebuilt(module: nn.Module, convert: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
    """A copy of a module, in evaluation mode, with each parameter and buffer converted.

    The module itself is not changed, and its tensors are not copied on the way.
    """
    memo: dict[int, Any] = {}
    with torch.no_grad():
        for parameter in module.parameters():
            memo[id(parameter)] = nn.Parameter(convert(parameter), requires_grad=False)
        for buffer in module.buffers():
            memo[id(buffer)] = convert(buffer)
        return copy.deepcopy(module, memo).eval()


def cast(tensor: torch.Tensor, dtype: torch.dtype) -> torch.dtype:
    """The type that a tensor takes in a network run in a floating type: indices keep theirs."""
    return dtype if tensor.is_floating_point() else tensor.dtype


def _translate(
    program: torch.export.ExportedProgram, module: nn.Module, dtype: torch.dtype
) -> Graph:
    signature = program.graph_signature
    weights = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    inputs: dict[str, tuple[int, ...]] = {}
    nodes: list[Node] = []
    renamed = _Renamed()
    leaves: dict[str, Any] = {}
    for fx in program.graph.nodes:
        if fx.op == "placeholder":
            value = fx.meta.get("val")
            if fx.name in weights:
                leaves[fx.name] = Weight(weights[fx.name], tuple(value.shape))
            elif fx.name in signature.user_inputs:
                leaves[fx.name] = Ref(fx.name)
                inputs[fx.name] = tuple(value.shape)
            else:
                raise CaptureError(
                    f"the network makes the constant tensor {fx.name} in its forward: register it"
                    " as a buffer in __init__, so that it is known without running the network"
                )
        elif fx.op == "call_function" and isinstance(
            value := fx.meta.get("val"), (torch.Tensor, tuple, list)
        ):
            nodes.append(renamed.add(_node(fx, value, leaves)))
            leaves[fx.name] = Ref(fx.name)
    outputs = tuple(renamed.current(name) for name in signature.user_outputs)
    return Graph(
        inputs, dtype, tuple(nodes), outputs, blocks_of(nodes, module), program.call_spec.out_spec
    )


def _node(fx: torch.fx.Node, value: Any, leaves: Mapping[str, Any]) -> Node:
    def plain(arg: Any) -> Any:
        if isinstance(arg, torch.fx.Node):
            return leaves[arg.name]
        if isinstance(arg, torch.device):  # "meta" is where it was captured, not where it runs
            return torch.device("cpu")
        return list(map(plain, arg)) if isinstance(arg, (list, tuple)) else arg

    if fx.target is operator.getitem:
        args = {"self": plain(fx.args[0]), "index": fx.args[1]}
        op = GETITEM
    else:
        schema = fx.target._schema.arguments
        given = dict(zip((a.name for a in schema), fx.args, strict=False)) | dict(fx.kwargs)
        args = {a.name: plain(given.get(a.name, a.default_value)) for a in schema}
        op = str(fx.target)
    sample = value if isinstance(value, torch.Tensor) else value[0]
    operands = [arg for arg in fx.all_input_nodes if isinstance(leaves[arg.name], Ref)]
    stack = list((fx.meta.get("nn_module_stack") or {"": ("", "")}).values())
    return Node(
        fx.name, op, args, tuple(sample.shape), sample.dtype, _shapes(args, operands), stack[-1][0]
    )


def _shapes(args: Mapping[str, Any], operands: list[torch.fx.Node]) -> tuple[tuple[int, ...], ...]:
    shapes = {}
    for fx in operands:
        value = fx.meta["val"]
        shapes[fx.name] = tuple((value if isinstance(value, torch.Tensor) else value[0]).shape)
    found: list[tuple[int, ...]] = []

    def note(leaf: Any) -> Any:
        if isinstance(leaf, Ref):
            found.append(shapes[leaf.value])
        return leaf

    for arg in args.values():
        map_leaves(note, arg)
    return tuple(found)


class _Renamed:
    """Turns in-place calls into ordinary ones: later readers get the new value.

    ``y = relu_(x)`` becomes ``y = relu(x)``, and whoever reads ``x`` afterwards reads ``y``.
    """

    def __init__(self):
        self.latest: dict[str, str] = {}
        self.views: dict[str, str] = {}  # view -> what it is a view of

    def current(self, name: str) -> str:
        while name in self.latest:
            name = self.latest[name]
        return name

    def add(self, node: Node) -> Node:
        args = {k: map_leaves(self._now, arg) for k, arg in node.args.items()}
        node = replace(node, args=args)
        if node.op == GETITEM:
            return node
        namespace, kind, variant = node.op.split(".")
        schema = overload(node.op)._schema
        aliases = [a for a in schema.arguments if a.alias_info is not None]
        target = args.get(aliases[0].name) if aliases else None
        if not any(a.alias_info.is_write for a in aliases):
            if isinstance(target, Ref):
                self.views[node.name] = self.views.get(target.value, target.value)
            return node
        if (
            len(aliases) > 1
            or not isinstance(target, Ref)
            or target.value in self.views
            or target.value in self.views.values()
        ):
            raise CaptureError(
                f"{node.label} writes in place into a weight or into a value that has views:"
                " use the operator that returns a new tensor"
            )
        self.latest[target.value] = node.name
        return replace(node, op=f"{namespace}.{kind.removesuffix('_')}.{variant}")

    def _now(self, leaf: Any) -> Any:
        return Ref(self.current(leaf.value)) if isinstance(leaf, Ref) else leaf


def pack_outputs(graph: Graph, values: list[Any]) -> Any:
    """Put flattened outputs together as the network returns them."""
    return pytree.tree_unflatten(values, graph.structure)
