"""Which parameters the gradient of a network's output reaches.

The others have none, as in PyTorch, and no optimizer touches them: a gradient of zeros would let
weight decay shrink them.
"""

from __future__ import annotations

from collections.abc import Collection

import torch

from ..ir.graph import Graph
from ..ir.node import GETITEM, Node
from ..rules.calls import invoke


def reached(graph: Graph, names: Collection[str]) -> list[str]:
    """Those parameters that have a gradient.

    Parameters
    ----------
    graph
        The network as it was captured.
    names
        Of the parameters that take part in training.

    Examples
    --------
    >>> from spnb.capture.export import capture
    >>> class Net(torch.nn.Sequential):
    ...     def forward(self, x):
    ...         return self[1](self[0](x).detach())
    >>> net = Net(torch.nn.Conv2d(1, 1, 3), torch.nn.Conv2d(1, 1, 3))
    >>> graph = capture(net, (1, 1, 8, 8), torch.float32, training=True)
    >>> reached(graph, dict(net.named_parameters()))
    ['1.weight', '1.bias']
    """
    calls = (*graph.constants, *graph.nodes)
    known = set(names)  # what has a gradient, if something that is made of it has
    for node in calls:
        if known.intersection(_read(node)) and _differentiable(node, graph):
            known |= {node.name, f"={node.name}"}
    wanted = set(graph.outputs) & known
    for node in reversed(calls):
        if {node.name, f"={node.name}"} & wanted:
            wanted |= known.intersection(_read(node))
    return [name for name in names if name in wanted]


def _read(node: Node) -> list[str]:
    return [*node.operands, *(weight.name for weight in node.weights)]


def _differentiable(node: Node, graph: Graph) -> bool:
    """Whether PyTorch gives its result a gradient; tried on tensors without memory."""
    if not node.dtype.is_floating_point:
        return False
    if node.op == GETITEM:
        return True

    def empty(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta", requires_grad=dtype.is_floating_point)

    operands = zip(node.operands, node.operand_shapes, strict=True)
    given = [empty(shape, graph.dtype_of(value)) for value, shape in operands]
    weights = {weight.name: empty(weight.shape, graph.dtype) for weight in node.weights}
    try:
        with torch.enable_grad():
            result = invoke(node.op, node.bind(given, weights))
    except Exception:  # an operator that needs memory: then there may be a gradient
        return True
    parts = result if isinstance(result, (tuple, list)) else [result]
    return any(part.requires_grad for part in parts if isinstance(part, torch.Tensor))
