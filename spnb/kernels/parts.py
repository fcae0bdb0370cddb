"""The graph of simpler calls by which PyTorch defines one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

Table = Mapping[Any, Callable[..., Any]]
"""How each of some operators is computed by others."""


def graph_of_parts(
    call: fx.Node, definition: Callable[..., Any]
) -> tuple[fx.GraphModule, list[fx.Node]]:
    """Trace the definition of a call at the shapes of its operands.

    Parameters
    ----------
    call
        The call; nothing is computed, as its operands have no memory.
    definition
        Computes the same by simpler operators.

    Returns
    -------
    (torch.fx.GraphModule, list of torch.fx.Node)
        The graph, and the operand for each of its inputs.
    """
    from torch.fx.experimental.proxy_tensor import make_fx  # it takes a second to import

    operands = call.all_input_nodes

    def compute(*given: Any) -> Any:
        value_of = dict(zip(operands, given, strict=True)).__getitem__
        args = fx.node.map_arg(call.args, value_of)
        kwargs = fx.node.map_arg(call.kwargs, value_of)
        return definition(*args, **kwargs)

    with torch.no_grad():
        return make_fx(compute)(*(node.meta["val"] for node in operands)), operands
