"""A call in training, between its forward and its backward pass: a part of autograd's graph.

The tensors that a call read hold no values any more: autograd itself keeps those that the
derivative needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from ...capture.trainable import may_have_gradient
from .call_graph import CallGraph, Parts, graph_of
from .tape_values import parts_of
from .taped_call import TapedCall


@dataclass(frozen=True)
class OfCall:
    """The gradients of a call.

    Attributes
    ----------
    operands
        Those of the elements of each operand.
    weights
        Gives those of the weights by name; to be called once.
    new_memory
        Whether each of ``operands`` lies in memory of its own, which may be overwritten.
    """

    operands: list[Parts]
    weights: Callable[[], dict[str, torch.Tensor]]
    new_memory: bool


@dataclass(frozen=True)
class RecordedCall:
    """A call that autograd recorded.

    Attributes
    ----------
    call
        The call.
    padded
        Whether its first operand was read with its padding.
    operands
        For each operand, the numbers of its elements among the tensors of the graph; None for those
        without gradient.
    weights
        Names of the weights with a gradient: the further tensors of the graph.
    graph
        What autograd recorded.
    """

    call: TapedCall
    padded: bool
    operands: Sequence[Sequence[int | None]]
    weights: Sequence[str]
    graph: CallGraph

    @classmethod
    def of(
        cls,
        call: TapedCall,
        padded: bool,
        operands: Sequence[Any],
        weights: Mapping[str, torch.Tensor],
        result: Any,
    ) -> RecordedCall:
        """The record of a call of tensors that `entering` gave; these hold no values afterwards."""
        given: list[torch.Tensor] = []
        numbers: list[list[int | None]] = []
        for operand in operands:
            leaves = parts_of(operand)
            numbers.append([None] * len(leaves))
            for k, leaf in enumerate(leaves):
                if leaf.requires_grad:
                    numbers[-1][k] = len(given)
                    given.append(leaf)
        trained = [name for name in call.weight_names if weights[name].requires_grad]
        tensors = [*given, *(weights[name] for name in trained)]
        with_gradient = (tuple(map(tuple, numbers)), tuple(trained))
        graph = graph_of(call, parts_of(result), tensors, with_gradient)
        for leaf in given:
            leaf.data = _nothing(leaf.dtype, leaf.device)  # autograd's graph holds the tensor
        return cls(call, padded, numbers, trained, graph)

    def differentiate(self, gradient: Parts) -> OfCall:
        """The gradients of the operands and of the weights; once, as autograd allows.

        Parameters
        ----------
        gradient
            The gradient of the result.
        """
        found = self.graph.gradients(gradient)
        of_operands = [
            [self._of_operand(number, None if k is None else found.gradients[k]) for k in each]
            for number, each in enumerate(self.operands)
        ]

        def weights() -> dict[str, torch.Tensor]:
            if found.later is not None:
                found.later()
            own = found.gradients[len(found.gradients) - len(self.weights) :]
            return {n: g for n, g in zip(self.weights, own, strict=True) if g is not None}

        return OfCall(of_operands, weights, found.new_memory)

    def _of_operand(self, number: int, part: torch.Tensor | None) -> torch.Tensor | None:
        """The gradient of an element of an operand, without that of its padding."""
        if part is None or number or not self.padded:
            return part
        return self.call.without_padding(part)


@cache
def _nothing(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.empty(0, dtype=dtype, device=device)


def entering(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor as autograd's graph begins with it; whole numbers have no gradient."""
    if not may_have_gradient(tensor.dtype):
        return tensor
    # No view: PyTorch 2.13 differentiates a convolution in fp64 wrongly by a view of filters in
    # groups whose channels are last.
    return tensor.detach().requires_grad_()
