"""Which values of a program have a gradient.

An image has none, unless the user asks for it; nor has what is computed from images alone, as the
frozen first layers of a network do.  Autograd need not record such calls, nor compute the gradient
of a first convolution's operand, which is as large as the image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from ...ir.exchange import HOST
from ...ir.node import Node
from ...ir.program import Compute, Program, Receive


def values_with_gradient(
    program: Program,
    nodes: Sequence[Node],
    weights: Mapping[str, torch.Tensor],
    of_inputs: bool,
) -> frozenset[str]:
    """Return the names of the values of a program that may have a gradient.

    Parameters
    ----------
    program
        A program of a rank.
    nodes
        The calls of its stage.
    weights
        Parameters, buffers and constants by name; the trained ones require a gradient.
    of_inputs
        Whether the network's inputs have a gradient.
    """
    found: set[str] = set()
    known: set[str] = set()  # values that this rank made: of others only their ranks know
    for step in program.steps:
        if isinstance(step, Receive):
            from_host = any(t.source == HOST for t in step.transfers)
            if of_inputs if from_host else step.value not in known:
                found.add(step.value)
            known.add(step.value)
        elif isinstance(step, Compute):
            node = nodes[step.node]
            if not found.isdisjoint(node.operands) or any(
                weights[weight.name].requires_grad for weight in node.weights
            ):
                found.add(node.name)
            known.add(node.name)
    return frozenset(found)
