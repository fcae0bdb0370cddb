"""Captures a network into a `Graph`, without computing or allocating anything.

`capture` runs `torch.export` on fake tensors, which have shapes but no memory: a 65,536² image
costs as little to plan as a 32² one.  What comes back is put in the form that the rules know:
in-place calls become ordinary ones, several results become one each, and what depends on no input
becomes a constant.
"""

from __future__ import annotations

import copy
import io
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..errors import CaptureError
from ..ir.axes import Axes
from ..ir.blocks import blocks_of
from ..ir.graph import Graph
from ..ir.node import Node, Ref, Weight, map_leaves, overload
from ..kernels.compat import FakeTensor, FakeTensorMode
from ..rules import rule_of
from ..rules.dropout import DROPOUTS
from .autograd import (
    as_trained,
    detaching,
    refuse_averages_of_all,
    refuse_moving,
    refuse_unread_norms,
)
from .canonicalize import ordinary
from .reader import ExportReader, WritesIntoView

Shapes = Sequence[int] | Sequence[Sequence[int]] | Mapping[str, Sequence[int]]


def capture(module: nn.Module, shapes: Shapes, dtype: torch.dtype, training: bool = False) -> Graph:
    """Capture a network, in evaluation mode or as it is trained, at one shape of its inputs.

    Parameters
    ----------
    module
        Any module that `torch.export` captures; it is not changed.
    shapes
        Of the input, ``(batch, channels, *spatial)``; a list of shapes or a dict of them by name
        where there are several.  The first has the axes of the image.
    dtype
        Floating type that the network is run in.
    training
        Whether norms take the statistics of the batch, and dropout drops.

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

    fake = rebuilt(module, lambda t: empty(t.shape, cast(t, dtype))).train(training)
    if training:
        refuse_averages_of_all(fake)
    fake.forward = detaching(fake.forward, training)
    examples = {name: empty(shape, dtype) for name, shape in shapes.items()}
    named = {name: t for name, t in examples.items() if isinstance(name, str)}
    positional = tuple(t for name, t in examples.items() if not isinstance(name, str))
    said = io.StringIO()  # where it fails, torch.export prints the whole graph
    try:
        gradients = as_trained() if training else torch.no_grad()
        with gradients, redirect_stderr(said), _quiet_log():
            program = torch.export.export(fake, positional, named, strict=False)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        if "data-dependent" in reason:
            reason = (
                "its forward decides by the values of a tensor, so no two images need take the same"
                f" way through it: use torch.where, or decide outside ({reason})"
            )
        given = ", ".join(str(tuple(s)) for s in shapes.values())
        raise CaptureError(
            f"{type(module).__name__} cannot run or be captured at input shape {given}: {reason}"
        ) from error
    sys.stderr.write(said.getvalue())
    try:
        return _translate(program, fake, dtype, training)
    except WritesIntoView:  # what PyTorch can make ordinary calls of, in more time
        return _translate(program.run_decompositions({}), fake, dtype, training)


@contextmanager
def _quiet_log() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


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
    program: torch.export.ExportedProgram, module: nn.Module, dtype: torch.dtype, training: bool
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
    reader = ExportReader(program, _one_name_each(module))
    for fx in program.graph.nodes:
        reader.read(fx)
    inputs = reader.input_axes()
    rank = next(iter(inputs.values())).rank
    nodes, constants, known = [], [], {}
    axes = dict(inputs)
    outputs = [reader.returned(leaf) for leaf in _outputs(program)]
    for node in ordinary(reader.nodes, outputs):
        node = replace(node, args={k: map_leaves(_known(known), v) for k, v in node.args.items()})
        if not (training and node.kind in DROPOUTS):
            _refuse_noise(node)
        if training:
            refuse_moving(node)
        if not node.operands:
            constants.append(node)
            known[node.name] = Weight(f"={node.name}", node.shape)
            continue
        node = replace(
            node,
            axes=Axes.uncut(node.shape, rank),
            operand_axes=tuple(axes[value] for value in node.operands),
        )
        placed = rule_of(node).axes
        if placed.shape != node.shape:
            raise CaptureError(
                f"{node.label} gives {node.shape}, but its rule says {placed.shape}: mend the rule"
            )
        axes[node.name] = placed
        nodes.append(replace(node, axes=placed))
    if training:
        refuse_unread_norms(nodes, outputs)
    returned = _copied_inputs(map(_known(known), outputs), nodes, inputs, dtype)
    return Graph(
        inputs=inputs,
        dtype=dtype,
        nodes=tuple(nodes),
        returned=returned,
        blocks=blocks_of(nodes, module),
        structure=program.call_spec.out_spec,
        constants=tuple(constants),
        literals=reader.literals,
        training=training,
        counted=reader.counted,
    )


def _one_name_each(module: nn.Module) -> dict[str, str]:
    """The first name of each parameter and buffer, by each of its names."""
    first: dict[int, str] = {}
    named = [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]
    return {name: first.setdefault(id(tensor), name) for name, tensor in named}


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
