"""Captures a network into a `Graph`, without computing or allocating anything.

`capture` runs `torch.export` on fake tensors, which have shapes but no memory: a 65,536² image
costs as little to plan as a 32² one.  What comes back is put in the form that the rules know:
in-place calls become ordinary ones, several results become one each, and what depends on no input
becomes a constant.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode

from .axes import Axes
from .blocks import blocks_of
from .graph import Graph
from .node import GETITEM, Node, Ref, Weight, map_leaves, overload
from .rules import rule_of


class CaptureError(ValueError):
    """The network cannot be captured as a graph of operators."""


class _DataIsDetached(TorchFunctionMode):
    """Reads ``x.data`` as ``x.detach()``: torch.export would lose sight of ``x``."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function == torch.Tensor.data.__get__:
            return args[0].detach()
        return function(*args, **(kwargs or {}))


class _WritesIntoView(Exception):
    """A value that has views is overwritten in place."""


Shapes = Sequence[int] | Sequence[Sequence[int]] | Mapping[str, Sequence[int]]


def capture(module: nn.Module, shapes: Shapes, dtype: torch.dtype) -> Graph:
    """Capture a network, in evaluation mode, at one shape of its inputs.

    Parameters
    ----------
    module
        Any module that `torch.export` captures; it is not changed.
    shapes
        Of the input, ``(batch, channels, *spatial)``; a list of shapes or a dict of them by name
        where there are several.  The first has the axes of the image.
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
    if not isinstance(shapes, Mapping):
        many = bool(shapes) and not isinstance(shapes[0], int)
        shapes = dict(enumerate(shapes if many else [shapes]))
    mode = FakeTensorMode(allow_non_fake_inputs=True)

    def empty(shape: Sequence[int], kind: torch.dtype) -> torch.Tensor:
        with mode:
            return torch.empty(tuple(shape), dtype=kind)

    fake = rebuilt(module, lambda t: empty(t.shape, cast(t, dtype)))
    examples = {name: empty(shape, dtype) for name, shape in shapes.items()}
    named = {name: t for name, t in examples.items() if isinstance(name, str)}
    positional = tuple(t for name, t in examples.items() if not isinstance(name, str))
    try:
        with torch.no_grad(), _DataIsDetached():
            program = torch.export.export(fake, positional, named, strict=False)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        given = ", ".join(str(tuple(s)) for s in shapes.values())
        raise CaptureError(
            f"{type(module).__name__} cannot run or be captured at input shape {given}: {reason}"
        ) from error
    try:
        return _translate(program, fake, dtype)
    except _WritesIntoView:  # what PyTorch can make ordinary calls of, in more time
        return _translate(program.run_decompositions({}), fake, dtype)


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
    if signature.buffers_to_mutate:
        name = next(iter(signature.buffers_to_mutate.values()))
        raise CaptureError(
            f"the network changes its buffer {name} in its forward: a tile would change its own"
            " copy; return the new value, or update it in training only"
        )
    for name in signature.inputs_to_lifted_tensor_constants.values():
        if isinstance(tensor := program.constants[name], FakeTensor):
            raise CaptureError(
                f"the network takes a tensor of shape {tuple(tensor.shape)}, {name}, out of sight"
                " of torch.export, and what is computed of it would be lost: use x.detach() and"
                " tensor operators only"
            )
    reader = _Reader(program)
    for fx in program.graph.nodes:
        reader.read(fx)
    inputs = reader.input_axes()
    rank = next(iter(inputs.values())).rank
    nodes, constants, known = [], [], {}
    axes = dict(inputs)
    outputs = [reader.returned(leaf) for leaf in _outputs(program)]
    for node in _ordinary(reader.nodes, outputs):
        node = replace(node, args={k: map_leaves(_known(known), v) for k, v in node.args.items()})
        _refuse_noise(node)
        if not node.operands:
            constants.append(node)
            known[node.name] = Weight(f"={node.name}", node.shape)
            continue
        node = replace(
            node,
            axes=Axes.uncut(node.shape, rank),
            operand_axes=tuple(axes[value] for value in node.operands),
        )
        found = rule_of(node).axes
        if found.shape != node.shape:
            raise CaptureError(
                f"{node.label} gives {node.shape}, but its rule says {found.shape}: mend the rule"
            )
        axes[node.name] = found
        nodes.append(replace(node, axes=found))
    returned = _copied_inputs(map(_known(known), outputs), nodes, inputs, dtype)
    return Graph(
        inputs,
        dtype,
        tuple(nodes),
        returned,
        blocks_of(nodes, module),
        tuple(constants),
        reader.literals,
        program.call_spec.out_spec,
    )


def _known(known: Mapping[str, Weight]) -> Callable[[Any], Any]:
    return lambda leaf: known.get(leaf.value, leaf) if isinstance(leaf, Ref) else leaf


def _outputs(program: torch.export.ExportedProgram) -> list[Any]:
    specs = program.graph_signature.output_specs
    arguments = [spec.arg for spec in specs if spec.kind.name == "USER_OUTPUT"]
    return [Ref(arg.name) if hasattr(arg, "name") and arg.name else arg.value for arg in arguments]


def _copied_inputs(
    returned: Iterable[Any], nodes: list[Node], inputs: Mapping[str, Axes], dtype: torch.dtype
) -> tuple[Any, ...]:
    """An input that is returned as it is gets a call of its own, to have a home among the tiles."""
    found = []
    for leaf in returned:
        if isinstance(leaf, Ref) and leaf.value in inputs:
            axes, name = inputs[leaf.value], f"{leaf.value}.returned"
            if all(node.name != name for node in nodes):
                args = {"self": Ref(leaf.value)}
                nodes.append(Node(name, "aten.alias.default", args, axes, dtype, (axes,), ""))
            leaf = Ref(name)
        found.append(leaf)
    return tuple(found)


def _refuse_noise(node: Node) -> None:
    ours = node.op.split(".")[0] in ("_operator", "spnb")
    if ours or torch.Tag.nondeterministic_seeded not in overload(node.op).tags:
        return
    switches = [node.args[k] for k in ("train", "training", "dropout_p") if k in node.args]
    if not switches or any(switches):
        raise CaptureError(
            f"{node.label} makes random numbers: no two runs are equal, so tiles cannot be; pass"
            " the numbers as an input, or register them as a buffer"
        )


class _Reader:
    """Reads the calls of an exported program one by one."""

    def __init__(self, program: torch.export.ExportedProgram):
        signature = program.graph_signature
        self.weights = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        self.given = signature.inputs_to_lifted_tensor_constants
        self.constants = program.constants
        self.user_inputs = set(signature.user_inputs)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.leaves: dict[str, Any] = {}
        self.literals: dict[str, torch.Tensor] = {}
        self.nodes: list[Node] = []
        self.renamed = _Renamed()

    def input_axes(self) -> dict[str, Axes]:
        """Axes of each input; the first says how many there are."""
        first = next(iter(self.shapes.values()))
        return {name: Axes.image(shape, len(first) - 1) for name, shape in self.shapes.items()}

    def read(self, fx: torch.fx.Node) -> None:
        """Take one node of the exported graph."""
        value = fx.meta.get("val")
        if fx.op == "placeholder":
            self._placeholder(fx, value)
        elif fx.op == "call_function" and isinstance(value, (torch.Tensor, tuple, list)):
            node = self._node(fx, value)
            self.nodes.append(node if node.op == GETITEM else self.renamed.add(node))
            self.leaves[fx.name] = Ref(fx.name)

    def returned(self, leaf: Any) -> Any:
        """What an output of the program is called now."""
        if isinstance(leaf, Ref):
            leaf = self.leaves[leaf.value]
        return self.renamed.now(leaf)

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
            schema = fx.target._schema.arguments
            given = dict(zip((a.name for a in schema), fx.args, strict=False)) | dict(fx.kwargs)
            args = {a.name: self._plain(given.get(a.name, a.default_value)) for a in schema}
            op = str(fx.target)
        args = {name: map_leaves(self.renamed.now, arg) for name, arg in args.items()}
        sample = value if isinstance(value, torch.Tensor) else value[0]
        parts = () if isinstance(value, torch.Tensor) else tuple(tuple(p.shape) for p in value)
        stack = list((fx.meta.get("nn_module_stack") or {"": ("", "")}).values())
        axes = Axes.uncut(tuple(sample.shape), 1)
        return Node(fx.name, op, args, axes, sample.dtype, (), stack[-1][0], parts)

    def _plain(self, arg: Any) -> Any:
        if isinstance(arg, torch.fx.Node):
            return self.leaves[arg.name]
        if isinstance(arg, torch.device):  # where it was captured, not where it runs
            return torch.device("cpu")
        return list(map(self._plain, arg)) if isinstance(arg, (list, tuple)) else arg


class _Renamed:
    """Turns in-place calls into ordinary ones: later readers get the new value.

    ``y = relu_(x)`` becomes ``y = relu(x)``, and whoever reads ``x`` afterwards reads ``y``.
    """

    def __init__(self):
        self.latest: dict[str, str] = {}
        self.views: dict[str, str] = {}  # view -> what it is a view of

    def now(self, leaf: Any) -> Any:
        """What a value is called now."""
        if not isinstance(leaf, Ref):
            return leaf
        name = leaf.value
        while name in self.latest:
            name = self.latest[name]
        return Ref(name)

    def add(self, node: Node) -> Node:
        """A call as an ordinary one."""
        namespace, kind, variant = node.op.split(".")
        schema = overload(node.op)._schema
        aliases = [a for a in schema.arguments if a.alias_info is not None]
        target = node.args.get(aliases[0].name) if aliases else None
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
            raise _WritesIntoView(node.label)
        self.latest[target.value] = node.name
        op = f"{namespace}.{kind.removesuffix('_')}.{variant}"
        names = (a.name for a in overload(op)._schema.arguments)  # which may be called otherwise
        return replace(node, op=op, args=dict(zip(names, node.args.values(), strict=True)))


SPLITS = [
    "chunk",
    "split",
    "split_with_sizes",
    "unsafe_split",
    "unsafe_chunk",
    "tensor_split",
    "unbind",
]


def _ordinary(nodes: Sequence[Node], returned: Iterable[Any]) -> Iterable[Node]:
    """The same calls, where one can be said by others that have a rule already."""
    read = {leaf.value for leaf in returned if isinstance(leaf, Ref)}
    read.update(value for node in nodes for value in node.operands)
    by_name = {node.name: node for node in nodes}
    nodes = [node for node in nodes if node.op != GETITEM or node.name in read]
    parts_used: dict[str, set[int]] = {}
    for node in nodes:
        if node.op == GETITEM and isinstance(node.args["self"], Ref):
            parts_used.setdefault(node.args["self"].value, set()).add(node.args["index"])
    for node in nodes:
        if node.op == GETITEM and isinstance(node.args["self"], Ref):
            source = by_name[node.args["self"].value]
            if source.kind in SPLITS:
                yield _part_as_slice(node, source)
                continue
            if parts_used[source.name] == {0} and source.kind in SINGLE:
                yield replace(node, op="aten.alias.default", args={"self": node.args["self"]})
                continue
        if node.kind in SPLITS:
            continue
        if node.kind == "stack":
            yield from _stack_as_cat(node)
        elif node.kind == "select_scatter":
            yield from _selection_as_slice(node)
        elif node.kind.startswith("new_") and node.kind != "new_empty_strided":
            yield _fresh(node)
        elif parts_used.get(node.name) == {0} and node.kind in SINGLE:
            yield SINGLE[node.kind](node)
        else:
            yield node


def _part_as_slice(node: Node, source: Node) -> Node:
    """One part of a split, as a slice; of an unbind, as a selection."""
    value, index = source.args["self"], node.args["index"]
    number = source.args.get("dim", 0)
    if source.kind == "unbind":
        args = {"self": value, "dim": number, "index": index}
        return replace(node, op="aten.select.int", args=args)
    sizes = [shape[number] for shape in source.parts]
    start, stop = sum(sizes[:index]), sum(sizes[: index + 1])
    args = {"self": value, "dim": number, "start": start, "end": stop, "step": 1}
    return replace(node, op="aten.slice.Tensor", args=args)


def _stack_as_cat(node: Node) -> Iterable[Node]:
    number = node.args["dim"] % len(node.shape)
    shape = (*node.shape[:number], 1, *node.shape[number + 1 :])
    parts = []
    for k, value in enumerate(node.args["tensors"]):
        name, axes = f"{node.name}.{k}", Axes.uncut(shape, 1)
        args = {"self": value, "dim": number}
        parts.append(replace(node, name=name, op="aten.unsqueeze.default", args=args, axes=axes))
    yield from parts
    args = {"tensors": [Ref(part.name) for part in parts], "dim": number}
    yield replace(node, op="aten.cat.default", args=args)


def _selection_as_slice(node: Node) -> Iterable[Node]:
    number, index = node.args["dim"] % len(node.shape), node.args["index"]
    index %= node.shape[number]
    shape = (*node.shape[:number], 1, *node.shape[number + 1 :])
    args = {"self": node.args["src"], "dim": number}
    one = replace(node, name=f"{node.name}.0", op="aten.unsqueeze.default", args=args)
    yield replace(one, axes=Axes.uncut(shape, 1))
    args = {"self": node.args["self"], "src": Ref(one.name), "dim": number}
    args |= {"start": index, "end": index + 1, "step": 1}
    yield replace(node, op="aten.slice_scatter.default", args=args)


def _fresh(node: Node) -> Node:
    """A new tensor takes no more than the type of the one that it is made like."""
    kind = node.kind.removeprefix("new_")
    args = {"size": node.args["size"], "dtype": node.dtype, "layout": None}
    if kind == "full":
        args["fill_value"] = node.args["fill_value"]
    args |= {"device": torch.device("cpu"), "pin_memory": None}
    variant = "memory_format" if kind == "empty" else "default"
    if kind == "empty":
        args["memory_format"] = None
    return replace(node, op=f"aten.{kind}.{variant}", args=args)


def _plain_batch_norm(node: Node) -> Node:
    args = {**node.args, "training": False, "cudnn_enabled": False}
    return replace(node, op="aten.batch_norm.default", args=args)


def _adaptive_max(node: Node) -> Node:
    return replace(node, op=f"spnb.adaptive_max.{node.kind}")


SINGLE: dict[str, Callable[[Node], Node]] = {
    "_native_batch_norm_legit_no_training": _plain_batch_norm,
    "adaptive_max_pool1d": _adaptive_max,
    "adaptive_max_pool2d": _adaptive_max,
    "adaptive_max_pool3d": _adaptive_max,
}
"""Calls of which only the first of several results is read, as calls with one result."""
