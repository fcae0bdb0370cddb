"""A call in training, between its forward and its backward pass: edges of autograd's graph.

An edge says where the gradient of a tensor enters the graph.  Unlike the tensor, it keeps no values
in memory: autograd itself keeps those that the derivative needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.graph import GradientEdge, get_gradient_edge

from ..ir.axes import Axes
from ..ir.node import Node
from ..ir.region import Region
from .tape_values import parts_of

Edge = GradientEdge | None
"""Where the gradient of a tensor enters autograd's graph; None where it has none."""

Parts = list[torch.Tensor | None]
"""The gradients of the elements of a value."""


@dataclass(frozen=True)
class RecordedCall:
    """A call that autograd recorded.

    Attributes
    ----------
    node
        The call.
    read
        The region of each operand, its padding included.
    operands, results
        The edges of each operand's elements, and of the result's.
    """

    node: Node
    read: Sequence[Region]
    operands: Sequence[Sequence[Edge]]
    results: Sequence[Edge]

    @classmethod
    def of(
        cls, node: Node, read: Sequence[Region], operands: Sequence[Any], result: Any
    ) -> RecordedCall:
        """The record of a call of tensors that `entering` gave."""
        return cls(node, read, list(map(_edges, operands)), _edges(result))

    def differentiate(
        self, gradient: Parts, regions: Sequence[Region], weights: Mapping[str, torch.Tensor]
    ) -> tuple[list[Parts], dict[str, torch.Tensor]]:
        """The gradients of the operands, and of the weights by name; once, as autograd allows.

        Parameters
        ----------
        gradient
            The gradient of the result.
        regions
            The region of each operand without padding, which has no gradient.
        weights
            Weights by name; those that require a gradient get one.
        """
        pairs = zip(self.results, gradient, strict=True)
        known = [(edge, g) for edge, g in pairs if g is not None and edge is not None]
        if not known:
            return [[] for _ in self.operands], {}
        inputs = [edge for operand in self.operands for edge in operand if edge is not None]
        # A call may read a weight twice, and autograd gives the sum of both.
        names = dict.fromkeys(w.name for w in self.node.weights if weights[w.name].requires_grad)
        found = iter(
            torch.autograd.grad(
                [edge for edge, _ in known],
                [*inputs, *(get_gradient_edge(weights[name]) for name in names)],
                [g for _, g in known],
                allow_unused=True,
            )
        )
        of_operands = [
            [None if edge is None else next(found) for edge in operand] for operand in self.operands
        ]
        each = zip(of_operands, self.node.operand_axes, self.read, regions, strict=True)
        of_weights = {n: g for n, g in zip(names, found, strict=True) if g is not None}
        return [_without_padding(*given) for given in each], of_weights


def _without_padding(parts: Parts, axes: Axes, read: Region, region: Region) -> Parts:
    if read == region:
        return parts
    return [None if part is None else axes.piece(part, read, region) for part in parts]


class _Entry(torch.autograd.Function):
    """Passes a tensor on; its edge stands for the tensor where autograd is asked for a gradient."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, begin: torch.Tensor) -> torch.Tensor:
        # No view: PyTorch 2.13 differentiates a convolution in fp64 wrongly by a view of filters in
        # groups whose channels are last.
        return tensor.detach()


def entering(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor as autograd's graph begins with it; whole numbers have no gradient."""
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return tensor
    return _Entry.apply(tensor, torch.empty(0, requires_grad=True))


def _edges(value: Any) -> list[Edge]:
    """The edge of each element of a value."""
    return [get_gradient_edge(x) if x.requires_grad else None for x in parts_of(value)]
