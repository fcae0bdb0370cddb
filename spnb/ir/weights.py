"""The tensors of a network by name: parameters, buffers, and constants computed from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..errors import PlanError
from .graph import Graph
from .node import GETITEM, Node, overload


def equal(module: nn.Module, state: Mapping[str, torch.Tensor]) -> bool:
    """Whether a module has the weights of a state dict."""
    own = module.state_dict()
    return own.keys() == state.keys() and all(
        torch.equal(own[name], tensor.to(own[name])) for name, tensor in state.items()
    )


def named(module: nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter and buffer, under each of its names."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def tensors_of(
    module: nn.Module, names: Sequence[str], graph: Graph | None = None
) -> dict[str, torch.Tensor]:
    """Parameters, buffers and constants by name.

    Parameters
    ----------
    module
        The network with its weights.
    names
        Names of the tensors: parameters and buffers as in its ``state_dict``, constants as in the
        graph.
    graph
        The captured network; it has the calls that compute constants.
    """
    every: dict[str, Any] = named(module)
    if graph is not None:
        every |= graph.literals
        with torch.no_grad():
            add_constants(every, graph.made_of(names)[1])
    return {name: every[name].detach() for name in names}


def add_constants(known: dict[str, Any], calls: Sequence[Node]) -> None:
    """Add to known weights, under their names, the results of calls that read only weights.

    Raises
    ------
    PlanError
        If a call cannot be computed from the values of the weights.
    """
    for node in calls:
        args = node.bind([], known)
        is_item = node.op == GETITEM
        try:
            result = args["self"][args["index"]] if is_item else overload(node.op)(**args)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            said = str(error).strip().partition("\n")[0]
            raise PlanError(
                f"{node.label} reads weights only, and cannot be computed from these: {said}:"
                " change the weights, or compute it outside the network"
            ) from error
        known[f"={node.name}"] = result
