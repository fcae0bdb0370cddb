"""Finds the parameters that have a gradient, because an output of the network depends on them.

The others have none, as in PyTorch, so no optimizer changes them.  With a gradient of zeros, weight
decay would change them.
"""

from __future__ import annotations

from collections.abc import Collection

import torch

from ..ir.graph import Graph
from ..ir.node import GETITEM, Node
from ..rules.calls import invoke


def with_gradient(graph: Graph, names: Collection[str]) -> list[str]:
    """Return the names of the parameters that have a gradient.

    Parameters
    ----------
    graph
        The network as it was captured.
    names
        Names of the parameters that the user wants to train.

    Examples
    --------
    >>> from spnb.capture.export import capture
    >>> class Net(torch.nn.Sequential):
    ...     def forward(self, x):
    ...         return self[1](self[0](x).detach())
    >>> net = Net(torch.nn.Conv2d(1, 1, 3), torch.nn.Conv2d(1, 1, 3))
    >>> graph = capture(net, (1, 1, 8, 8), torch.float32, training=True)
    >>> with_gradient(graph, dict(net.named_parameters()))
    ['1.weight', '1.bias']
    """
    calls = (*graph.constants, *graph.nodes)
    # From the parameters forward: values that depend on one through differentiable calls.
    dependent = set(names)
    for node in calls:
        if dependent.intersection(_read(node)) and _differentiable(node, graph):
            dependent |= {node.name, f"={node.name}"}
    # From the outputs backward: those of them that an output depends on.
    outputs = graph.outputs[:1] if graph.loss_calls else graph.outputs  # metrics have no gradient
    wanted = set(outputs) & dependent
    for node in reversed(calls):
        if {node.name, f"={node.name}"} & wanted:
            wanted |= dependent.intersection(_read(node))
    return [name for name in names if name in wanted]


def _read(node: Node) -> list[str]:
    """Names of the values and weights that a call reads."""
    return [*node.operands, *(weight.name for weight in node.weights)]


def _differentiable(node: Node, graph: Graph) -> bool:
    """Whether PyTorch differentiates the call; this is tried on tensors without memory."""
    if not may_have_gradient(node.dtype):
        return False
    if node.op == GETITEM:
        return True

    def empty(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        has = may_have_gradient(dtype)
        return torch.empty(shape, dtype=dtype, device="meta", requires_grad=has)

    operands = zip(node.operands, node.operand_shapes, strict=True)
    given = [empty(shape, graph.dtype_of(value)) for value, shape in operands]
    weights = {weight.name: empty(weight.shape, graph.dtype) for weight in node.weights}
    try:
        with torch.enable_grad():
            result = invoke(node.op, node.bind(given, weights))
    except Exception:  # the operator needs values, so the trial fails: it may have a gradient
        return True
    parts = result if isinstance(result, (tuple, list)) else [result]
    return any(part.requires_grad for part in parts if isinstance(part, torch.Tensor))


def may_have_gradient(dtype: torch.dtype) -> bool:
    """Whether tensors of a type may have a gradient.

    >>> may_have_gradient(torch.complex64), may_have_gradient(torch.int64)
    (True, False)
    """
    return dtype.is_floating_point or dtype.is_complex
