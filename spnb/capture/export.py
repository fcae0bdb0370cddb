"""Captures a network into a `Graph`, without computing or allocating anything.

`capture` runs `torch.export` on fake tensors, which have shapes but no memory: a 65,536² image
costs as little to plan as a 32² one.  Its graph is then written in the form that the rules know:
in-place calls return a result instead, several results become one each, and what depends on no
input becomes a constant.
"""

from __future__ import annotations

import copy
import io
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import Any

import torch
from torch import nn

from ..errors import CaptureError
from ..ir.graph import Graph
from ..kernels.compat import FakeTensorMode
from .autograd import as_trained, detaching, refuse_averages_of_all
from .reader import WritesIntoView
from .translate import graph_of

Shapes = Sequence[int] | Sequence[Sequence[int]] | Mapping[str, Sequence[int]]


def capture(module: nn.Module, shapes: Shapes, dtype: torch.dtype, training: bool = False) -> Graph:
    """Capture a network, in evaluation or training mode, at one shape of its inputs.

    Parameters
    ----------
    module
        Any module that `torch.export` captures; it is not changed.
    shapes
        Shape of the input, ``(batch, channels, *spatial)``; for several inputs a list of shapes, or
        a dict of them by name.  The first input is the image, whose axes are cut.
    dtype
        Floating type that the network runs in.
    training
        Whether norms take the statistics of the batch, and dropout drops.

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

    fake = rebuilt(module, lambda t: empty(t.shape, cast(t, dtype))).train(training)
    if training:
        refuse_averages_of_all(fake)
    fake.forward = detaching(fake.forward, training)
    try:
        program = _exported(
            fake,
            positional=tuple(empty(shape, dtype) for shape in positional),
            named={name: empty(shape, dtype) for name, shape in named.items()},
            training=training,
        )
    except Exception as error:
        given = ", ".join(str(tuple(shape)) for shape in (*positional, *named.values()))
        raise CaptureError(
            f"{type(module).__name__} cannot run or be captured at input shape {given}:"
            f" {_reason(error)}"
        ) from error
    try:
        return graph_of(program, fake, dtype, training)
    except WritesIntoView:  # PyTorch's decompositions take longer, and overwrite nothing
        return graph_of(program.run_decompositions({}), fake, dtype, training)


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
    with gradients, redirect_stderr(printed), _quiet_log():
        program = torch.export.export(module, positional, named, strict=False)
    sys.stderr.write(printed.getvalue())
    return program


def _reason(error: Exception) -> str:
    """The first line of an error, with a way out where one is known."""
    text = str(error).strip()
    first = text.splitlines()[0] if text else repr(error)
    if "data-dependent" not in first:
        return first
    return (
        "its forward decides by the values of a tensor, so two images may take different ways"
        f" through it: use torch.where, or decide outside ({first})"
    )


@contextmanager
def _quiet_log() -> Iterator[None]:
    """Keep warnings out of the log."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


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
        return copy.deepcopy(module, memo).eval()


def cast(tensor: torch.Tensor, dtype: torch.dtype) -> torch.dtype:
    """Return the type of a tensor in a network of a floating type: integers keep their own."""
    return dtype if tensor.is_floating_point() else tensor.dtype
