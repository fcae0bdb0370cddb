"""From a program of torch.export to a `Graph` of calls with rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import nn

from ..errors import CaptureError
from ..ir.axes import Axes
from ..ir.blocks import blocks_of
from ..ir.graph import Graph
from ..ir.node import Node, Ref, Weight, leaves, map_leaves, overload
from ..ir.weights import named
from ..kernels.compat import FakeTensor
from ..rules.dropout import DROPOUTS
from ..rules.loops import LOOPS, Subgraph
from .autocast import gpu_casts_of
from .autograd import refuse_moving, refuse_unread_norms
from .reader import ExportReader, out_of_sight
from .rewrites.alike import same_for_each_image
from .rewrites.canonicalize import canonical
from .rewrites.complex_numbers import without_complex_figures
from .rewrites.cut_constants import Constants
from .rewrites.empty_values import without_empty_values
from .rewrites.mixed_types import refuse_mixed_types
from .rewrites.placement import with_axes
from .rewrites.positions import KnownCalls
from .rewrites.realignment import with_realignment
from .rewrites.redistribution import with_redistribution
from .rewrites.written_out import with_attention
from .states import refuse_states


def graph_of(
    program: torch.export.ExportedProgram,
    module: nn.Module,
    dtype: torch.dtype,
    training: bool,
    given: Sequence[Axes] = (),
    buffers: Mapping[str, torch.Tensor] | None = None,
) -> Graph:
    """Return the graph of an exported program.

    Parameters
    ----------
    program
        The program that torch.export made from the module.
    module
        The module; its tree gives the blocks, and the first name of each shared weight.
    dtype
        Floating type of the inputs.
    training
        Whether it was exported in training mode.
    given
        Axes of the inputs in order; by default the first is an image.
    buffers
        The module's buffers with their values, where these are known.

    Raises
    ------
    CaptureError
        If the network does something that the graph cannot express.
    WritesIntoView
        If a call overwrites a value that has views.
    """
    _refuse_unseen(program)
    refuse_states(program)
    reader = ExportReader(program, _one_name_each(module), training)
    for fx in program.graph.nodes:
        reader.read(fx)
    inputs = reader.input_axes()
    inputs = dict(zip(inputs, given, strict=True)) if given else inputs
    rank = next(iter(inputs.values())).rank
    outputs = [reader.returned(leaf) for leaf in _outputs(program)]
    if not any(isinstance(leaf, (Ref, Weight)) for leaf in outputs):
        raise CaptureError("the network returns no tensor: return what it computes")
    refuse_mixed_types(reader.nodes, _types(module, reader.literals, inputs, dtype))
    nodes = list(without_complex_figures(list(canonical(reader.nodes, outputs))))
    nodes = without_empty_values(nodes, outputs)
    if training:
        refuse_unread_norms(nodes, outputs)
    nodes = _without_unread(nodes, outputs)
    fixed: dict[str, int] = {}
    values = _with_values(module, buffers or {})
    calls = _calls(nodes, inputs, reader.literals, dtype, training, values, fixed)
    placed = with_redistribution(calls.nodes, inputs, before_attention=True)
    placed = with_attention(placed, outputs, inputs, dtype, calls.constants)
    placed = with_realignment(with_redistribution(placed, inputs), inputs, dtype)
    constants = Constants(calls.constants, _unchanging(module, reader.literals, training), rank)
    calls = calls._replace(nodes=constants.cut_in(placed, inputs))
    returned = _copied_inputs(map(_as_weight(calls.weights), outputs), calls.nodes, inputs, dtype)
    return Graph(
        inputs=inputs,
        dtype=dtype,
        nodes=tuple(calls.nodes),
        returned=returned,
        blocks=blocks_of(calls.nodes, module),
        structure=program.call_spec.out_spec,
        constants=tuple(calls.constants),
        literals=reader.literals,
        training=training,
        counted=reader.counted,
        default_dtype=torch.get_default_dtype(),
        gpu_casts=gpu_casts_of(program),
        fixed=fixed,
    )


def _with_values(module: nn.Module, buffers: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The buffers of which values are known, in the types that they have in a captured module."""
    types = {name: tensor.dtype for name, tensor in module.named_buffers()}
    known = ((n, t) for n, t in buffers.items() if n in types and not t.is_meta)
    return {name: tensor.detach().cpu().to(types[name]) for name, tensor in known}


def _without_unread(nodes: Sequence[Node], outputs: Iterable[object]) -> list[Node]:
    """The calls without those that no output depends on, such as of ``x[0].numel()``.

    Layers that are not read stay, as their weights are in checkpoints.
    """
    read = {leaf.value for leaf in outputs if isinstance(leaf, Ref)}
    found: list[Node] = []
    for node in reversed(nodes):
        if node.name in read or node.weights:
            read.update(node.operands)
            found.append(node)
    return found[::-1]


def _refuse_unseen(program: torch.export.ExportedProgram) -> None:
    """Refuse a forward with computations that torch.export does not record."""
    signature = program.graph_signature
    for name in signature.inputs_to_lifted_tensor_constants.values():
        if isinstance(tensor := program.constants[name], FakeTensor):
            raise out_of_sight(name, tensor)


class _Calls(NamedTuple):
    """The calls of a network: those that depend on its inputs, and the constants.

    Attributes
    ----------
    nodes
        Calls that depend on an input, with their axes.
    constants
        Calls that depend on none.
    weights
        The result of each constant as a weight, by the call's name.
    """

    nodes: list[Node]
    constants: list[Node]
    weights: dict[str, Weight]


def _calls(
    nodes: Iterable[Node],
    inputs: Mapping[str, Axes],
    literals: MutableMapping[str, torch.Tensor],
    dtype: torch.dtype,
    training: bool,
    buffers: Mapping[str, torch.Tensor],
    fixed: MutableMapping[str, int],
) -> _Calls:
    """Divide calls into those that depend on an input and constants, and find their axes."""
    found = _Calls([], [], {})
    axes, alike = dict(inputs), set[str]()
    rank = next(iter(inputs.values())).rank
    by_name: dict[str, Node] = {}
    constants: dict[str, Node] = {}
    known = KnownCalls(by_name, constants, literals, axes, dtype, buffers, fixed)
    for node in nodes:
        as_weight = _as_weight(found.weights)
        node = replace(node, args={k: map_leaves(as_weight, v) for k, v in node.args.items()})
        if not (training and node.kind in DROPOUTS):
            _refuse_noise(node)
        if training:
            refuse_moving(node)
        if node.operands:
            for call in known.rewritten(node):
                by_name[call.name] = call = with_axes(call, axes, rank)
                axes[call.name] = call.axes
                found.nodes.append(call)
        elif node.kind in LOOPS:
            raise CaptureError(
                f"{node.label} reads no input of the network: compute it once, and register the"
                " result as a buffer"
            )
        else:
            found.constants.append(node)
            constants[node.name] = node
            if same_for_each_image(node, alike):
                alike.add(node.name)
            weight = Weight(f"={node.name}", node.shape, node.name in alike)
            found.weights[node.name] = weight
    return found


def _unchanging(
    module: nn.Module, literals: Mapping[str, torch.Tensor], training: bool
) -> dict[str, torch.dtype]:
    """The types of literals, and in evaluation of buffers, by name."""
    buffers = {} if training else dict(module.named_buffers())
    return {name: tensor.dtype for name, tensor in {**literals, **buffers}.items()}


def _types(
    module: nn.Module,
    literals: Mapping[str, torch.Tensor],
    inputs: Iterable[str],
    dtype: torch.dtype,
) -> dict[str, torch.dtype]:
    """The types of inputs, of weights under each of their names, and of literals, by name."""
    every = {**named(module), **literals}
    return {**dict.fromkeys(inputs, dtype), **{name: t.dtype for name, t in every.items()}}


def _one_name_each(module: nn.Module) -> dict[str, str]:
    """For each name of a parameter or buffer, the first of its names."""
    first: dict[int, str] = {}
    named = [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]
    return {name: first.setdefault(id(tensor), name) for name, tensor in named}


def _as_weight(known: Mapping[str, Weight]) -> Callable[[object], object]:
    """The function that replaces a reference to a constant by its weight."""
    return lambda leaf: known.get(leaf.value, leaf) if isinstance(leaf, Ref) else leaf


def _outputs(program: torch.export.ExportedProgram) -> list[object]:
    """The leaves of the network's output: values as `Ref`, everything else unchanged."""
    specs = program.graph_signature.output_specs
    arguments = [spec.arg for spec in specs if spec.kind.name == "USER_OUTPUT"]
    return [Ref(arg.name) if hasattr(arg, "name") and arg.name else arg.value for arg in arguments]


def _copied_inputs(
    returned: Iterable[object], nodes: list[Node], inputs: Mapping[str, Axes], dtype: torch.dtype
) -> tuple[object, ...]:
    """Return the outputs; an input among them is copied by a call, which tiles can compute."""
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
    """Refuse a call that makes random numbers, unless it is switched off."""
    for leaf in leaves(node.args):
        for inner in leaf.nodes if isinstance(leaf, Subgraph) else ():
            _refuse_noise(inner)
    if node.op.split(".")[0] in ("_operator", "spnb", "higher_order"):
        return
    if torch.Tag.nondeterministic_seeded not in overload(node.op).tags:
        return
    switches = [node.args[k] for k in ("train", "training", "dropout_p") if k in node.args]
    if not switches or any(switches):
        raise CaptureError(
            f"{node.label} makes random numbers, so results would differ from run to run, and from"
            " tile to tile: pass the numbers as an input, or register them as a buffer"
        )
