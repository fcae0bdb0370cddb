"""Captures a network into a `Graph`, without computing or allocating anything.

`capture` runs `torch.export` on fake tensors, which have shapes but no memory: a 65,536² image
costs as little to plan as a 32² one.  Its graph is then written in the form that the rules know:
in-place calls return a result instead, several results become one each, and what depends on no
input becomes a constant.
"""

from __future__ import annotations

import copy
import io
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from typing import Any

import torch
from torch import nn

from ..errors import CaptureError
from ..ir.axes import Axes
from ..ir.graph import Graph
from ..ir.module_state import set_training_modes
from ..kernels.compat import (
    FakeTensorMode,
    graphs_not_compiled,
    stack_traces_left_out,
    transforms_undone,
)
from ..kernels.gpu_autocast import gpu_autocast_recorded
from .autograd import as_trained, detaching, refuse_averages_of_all
from .copies import DetachedCopies
from .decompose import Table, taken_apart
from .in_place import WritesIntoView
from .kept_norms import with_norms_kept
from .messages import first_line, quiet_log
from .regions import has_transforms
from .remembered import refuse_remembered
from .sizes import resized, size_advice
from .states import Passes
from .translate import graph_of

Shapes = Sequence[int] | Sequence[Sequence[int]] | Mapping[str, Sequence[int]]


def capture(
    module: nn.Module,
    shapes: Shapes,
    dtype: torch.dtype,
    training: bool = False,
    own_types: bool = False,
    own_modes: bool = False,
) -> Graph:
    """Capture a network, in evaluation or training mode, at one shape of its inputs.

    Parameters
    ----------
    module
        Any module that `torch.export` captures; it is not changed.
    shapes
        Shape of the input, ``(batch, channels, *spatial)``; for several inputs a list of shapes, or
        a dict of them by name.  The first input is the image, whose axes are cut.
    dtype
        Floating type of the inputs, and of the weights.
    training
        Whether norms take the statistics of the batch, and dropout drops; not in layers that are in
        evaluation mode while the module itself is in training mode.
    own_types
        Whether each weight has the module's own type instead.
    own_modes
        In training, whether each layer is in the module's own mode, although the module itself is
        in evaluation mode.

    Returns
    -------
    Graph
        The network's calls, with shapes and axes.

    Raises
    ------
    CaptureError
        With the reason and a way out, if the network cannot be captured.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU())
    >>> graph = capture(net, (1, 3, 65536, 65536), torch.float32)
    >>> [(node.kind, node.shape) for node in graph.nodes]
    [('conv2d', (1, 8, 32768, 32768)), ('relu', (1, 8, 32768, 32768))]
    """
    positional, named = _arguments(shapes)
    mode = FakeTensorMode(allow_non_fake_inputs=True)

    def empty(shape: Sequence[int], kind: torch.dtype) -> torch.Tensor:
        with mode:
            return torch.empty(tuple(shape), dtype=kind)

    weights_type = None if own_types else dtype
    try:
        fake = rebuilt(module, lambda t: empty(t.shape, cast(t, weights_type)))
    except Exception as error:
        raise CaptureError(
            f"{type(module).__name__} cannot be copied without its weights: {first_line(error)}"
        ) from error
    if training:
        set_training_modes(fake, module, own_modes)
        refuse_averages_of_all(fake)
    fake.forward = detaching(fake.forward, training)

    def exported() -> torch.export.ExportedProgram:
        return _exported(
            fake,
            positional=tuple(empty(shape, dtype) for shape in positional),
            named={name: empty(shape, dtype) for name, shape in named.items()},
            training=training,
        )

    passes = Passes(fake)
    try:
        program = exported()
    except Exception as error:
        given = ", ".join(str(tuple(shape)) for shape in (*positional, *named.values()))

        def works(size: Sequence[int]) -> bool:
            old = tuple((*positional, *named.values())[0][2:])
            args = [empty(resized(shape, old, size), dtype) for shape in positional]
            kwargs = {n: empty(resized(shape, old, size), dtype) for n, shape in named.items()}
            return _runs(fake, args, kwargs, mode)

        raise CaptureError(
            f"{type(module).__name__} cannot run or be captured at input shape {given}:"
            f" {first_line(error)}{size_advice((*positional, *named.values())[0], works)}"
        ) from error
    graph = _read(program, fake, dtype, training, buffers=dict(module.named_buffers()))
    passes.refuse_counters(program, exported)
    if passes.keeps_tensors:
        args = [empty(shape, dtype) for shape in positional]
        kwargs = {name: empty(shape, dtype) for name, shape in named.items()}
        refuse_remembered(fake, (*args, *kwargs.values()), lambda: _runs(fake, args, kwargs, mode))
    return graph


def capture_calls(
    module: nn.Module, inputs: Sequence[tuple[Axes, torch.dtype]], dtype: torch.dtype
) -> Graph:
    """Capture what a module without weights computes of tensors that are cut in a known way.

    Parameters
    ----------
    module
        The module; it may change no tensor.
    inputs
        Axes and type of each input.
    dtype
        The graph's floating type.

    Returns
    -------
    Graph
        The calls, with gradients as in training.

    Raises
    ------
    CaptureError
        With the reason, if it cannot be captured.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        given = tuple(torch.empty(axes.shape, dtype=kind) for axes, kind in inputs)
    module.forward = detaching(module.forward, training=True)
    try:
        program = _exported(module, given, {}, training=True)
    except CaptureError:
        raise
    except Exception as error:
        shapes = ", ".join(f"{axes.shape} of {kind}" for axes, kind in inputs)
        raise CaptureError(
            f"the loss cannot run or be captured on {shapes}: {first_line(error)}"
        ) from error
    return _read(program, module, dtype, True, [axes for axes, _ in inputs])


def _read(
    program: torch.export.ExportedProgram,
    fake: nn.Module,
    dtype: torch.dtype,
    training: bool,
    inputs: Sequence[Axes] = (),
    buffers: Mapping[str, torch.Tensor] | None = None,
) -> Graph:
    """Return the graph of an exported program; what it holds and spnb does not know is refused."""

    def graph(program: torch.export.ExportedProgram) -> Graph:
        return graph_of(program, fake, dtype, training, inputs, buffers)

    try:
        if has_transforms(program):
            program = _decomposed(program)
        with quiet_log():
            try:
                found = graph(program)
            except WritesIntoView:
                program = _decomposed(program)
                found = graph(program)
            return taken_apart(found, lambda table: graph(_decomposed(program, table)))
    except CaptureError:
        raise
    except Exception as error:
        raise CaptureError(
            f"{type(fake).__name__} was captured by torch.export, but has a call that spnb cannot"
            f" read: {type(error).__name__}: {first_line(error)}"
        ) from error


def _decomposed(
    program: torch.export.ExportedProgram, table: Table | None = None
) -> torch.export.ExportedProgram:
    """PyTorch's own decomposition: it takes longer, overwrites nothing, and holds no vmap."""
    with (
        quiet_log(),
        redirect_stderr(io.StringIO()),
        transforms_undone(),
        stack_traces_left_out(),
        gpu_autocast_recorded(),
    ):
        return with_norms_kept(program, lambda each: each.run_decompositions(dict(table or {})))


def _runs(
    module: nn.Module,
    args: Sequence[torch.Tensor],
    kwargs: Mapping[str, torch.Tensor],
    mode: FakeTensorMode,
) -> bool:
    """Whether a module without memory runs on some inputs."""
    try:
        with (
            mode,
            torch.no_grad(),
            redirect_stderr(io.StringIO()),
            quiet_log(),
            transforms_undone(),
        ):
            module(*args, **kwargs)
    except Exception:
        return False
    return True


def _arguments(shapes: Shapes) -> tuple[list[Sequence[int]], dict[str, Sequence[int]]]:
    """Shapes of the inputs that are given by position, and of those given by name."""
    if isinstance(shapes, Mapping):
        return [], dict(shapes)
    several = [shape for shape in shapes if not isinstance(shape, int)]
    sizes = [size for size in shapes if isinstance(size, int)]
    return several or [sizes], {}


def _exported(
    module: nn.Module,
    positional: tuple[torch.Tensor, ...],
    named: dict[str, torch.Tensor],
    training: bool,
) -> torch.export.ExportedProgram:
    """Run torch.export; where that fails, the whole graph that it prints is not shown."""
    printed = io.StringIO()
    gradients = as_trained() if training else torch.no_grad()
    with (
        gradients,
        redirect_stderr(printed),
        quiet_log(),
        transforms_undone(),
        stack_traces_left_out(),
        graphs_not_compiled(),
        gpu_autocast_recorded(),
    ):
        program = torch.export.export(module, positional, named, strict=False)
    sys.stderr.write(printed.getvalue())
    return program


def rebuilt(module: nn.Module, convert: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
    """Return a copy of a module, in evaluation mode, with each parameter and buffer converted.

    The module itself is not changed.  Its tensors are given to ``convert`` and not copied besides.
    """
    memo: dict[int, Any] = {}
    with torch.no_grad():
        for parameter in module.parameters():
            memo[id(parameter)] = nn.Parameter(convert(parameter), requires_grad=False)
        for buffer in module.buffers():
            memo[id(buffer)] = convert(buffer)
        with warnings.catch_warnings():
            # PyTorch's own copy of an exported module asks for what it calls deprecated.
            warnings.simplefilter("ignore", FutureWarning)
            with DetachedCopies():
                return copy.deepcopy(module, memo).eval()


def cast(tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.dtype:
    """Return the type of a tensor in a network of a floating type: integers keep their own.

    Without a floating type, all keep their own.
    """
    return dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
