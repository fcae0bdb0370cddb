"""A call in training, between its forward and its backward pass: a part of autograd's graph.

The tensors that a call read hold no values any more: autograd itself keeps those that the
derivative needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.graph import GradientEdge, get_gradient_edge

from ..ir.axes import Axes
from ..ir.node import Node
from ..ir.region import Region
from ..kernels.autograd_node import count_of_results, differentiate_in_two, in_python
from .tape_values import parts_of

Parts = list[torch.Tensor | None]
"""The gradients of the elements of a value."""


@dataclass(frozen=True)
class _Found:
    """The gradients of the tensors of a call.

    Attributes
    ----------
    gradients
        One for each tensor, or None.
    later
        Computes those that are still missing, if any, and puts them there.
    new_memory
        Whether each lies in memory of its own, which nothing else refers to.
    """

    gradients: Parts
    later: Callable[[], None] | None = None
    new_memory: bool = False


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
class _OneNode:
    """Results that one node of autograd's graph makes of the tensors of a call.

    The node is called as a function.  Autograd's engine, which finds its way through any graph,
    takes ten times as long as a small node itself.

    Attributes
    ----------
    node
        The node: from the gradients of its results it computes those of what it reads.
    results
        For each result of the node, its number among those of the call; None for the others.
    reads
        For each tensor that the node reads, its number among those of the call; None for one
        without gradient.
    shapes, dtypes
        Shape and type of each tensor of the call.
    """

    node: Any
    results: Sequence[int | None]
    reads: Sequence[int | None]
    shapes: Sequence[torch.Size]
    dtypes: Sequence[torch.dtype]

    @classmethod
    def of(cls, results: Sequence[torch.Tensor], given: Sequence[torch.Tensor]) -> _OneNode | None:
        """The node that makes the results of given tensors; None where the graph has more nodes."""
        node: Any = results[0].grad_fn if results else None
        count = None if node is None else count_of_results(node)
        if count is None or any(each.grad_fn is not node for each in results):
            return None
        if any(each.is_complex() for each in (*results, *given)):  # their types may differ
            return None
        numbers = {id(each): k for k, each in enumerate(given)}
        reads: list[int | None] = []
        for before, _ in node.next_functions:
            number = numbers.get(id(getattr(before, "variable", None)))
            if before is not None and number is None:
                return None
            reads.append(number)
        if in_python(node):
            of_tensors = (number for number in reads if number is not None)
            reads = [next(of_tensors) if has else None for has in node.needs_input_grad]
        places: list[int | None] = [None] * count
        for k, result in enumerate(results):
            places[result.output_nr] = k
        shapes, dtypes = [each.shape for each in given], [each.dtype for each in given]
        return cls(node, places, reads, shapes, dtypes)

    @property
    def nodes(self) -> list[Any]:
        """The nodes that make the results."""
        return [self.node]

    def gradients(self, of_results: Parts) -> _Found:
        """The gradient of each tensor of the call."""
        found: Parts = [None] * len(self.shapes)
        given = [None if k is None else of_results[k] for k in self.results]
        if all(each is None for each in given):
            return _Found(found)
        with torch.no_grad():
            first, later = differentiate_in_two(self.node, given)
            first = parts_of(first)
            self._add(found, first)
        memory = [_memory(each) for each in (*given, *first) if each is not None]
        return _Found(
            found,
            None if later is None else lambda: self._add(found, later()),
            new_memory=len(set(memory)) == len(memory),
        )

    @torch.no_grad()
    def _add(self, summed: Parts, found: Sequence[torch.Tensor | None]) -> None:
        """Add the gradients that the node gave to those of the call's tensors."""
        for number, gradient in zip(self.reads, found, strict=True):
            if number is None or gradient is None:
                continue
            # A tensor may have been expanded, or cast; and a call may read one twice.
            whole = gradient.sum_to_size(self.shapes[number]).to(self.dtypes[number])
            before = summed[number]
            summed[number] = whole if before is None else before + whole


@dataclass(frozen=True)
class _Graph:
    """Results that several nodes of autograd's graph make of the tensors of a call.

    Attributes
    ----------
    results, given
        Where the gradients of the results and of the tensors enter the graph; None where a result
        has none.
    """

    results: Sequence[GradientEdge | None]
    given: Sequence[GradientEdge]

    @classmethod
    def of(cls, results: Sequence[torch.Tensor], given: Sequence[torch.Tensor]) -> _Graph:
        """The graph between given tensors and results."""
        edges = [get_gradient_edge(each) if each.requires_grad else None for each in results]
        return cls(edges, list(map(get_gradient_edge, given)))

    @property
    def nodes(self) -> list[Any]:
        """The nodes that make the results."""
        return [edge.node for edge in self.results if edge is not None]

    def gradients(self, of_results: Parts) -> _Found:
        """The gradient of each tensor of the call."""
        pairs = zip(self.results, of_results, strict=True)
        known = [(edge, g) for edge, g in pairs if g is not None and edge is not None]
        if not (known and self.given):
            return _Found([None] * len(self.given))
        edges, gradients = zip(*known, strict=True)
        return _Found(list(torch.autograd.grad(edges, self.given, gradients, allow_unused=True)))


@dataclass(frozen=True)
class RecordedCall:
    """A call that autograd recorded.

    Attributes
    ----------
    node
        The call.
    read
        The region of each operand, its padding included.
    operands
        For each operand, the numbers of its elements among the tensors of the graph; None for those
        without gradient.
    weights
        Names of the weights with a gradient: the further tensors of the graph.
    graph
        What autograd recorded.
    """

    node: Node
    read: Sequence[Region]
    operands: Sequence[Sequence[int | None]]
    weights: Sequence[str]
    graph: _OneNode | _Graph

    @classmethod
    def of(
        cls,
        node: Node,
        read: Sequence[Region],
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
        trained = [name for name, weight in weights.items() if weight.requires_grad]
        tensors = [*given, *(weights[name] for name in trained)]
        results = parts_of(result)
        graph = _OneNode.of(results, tensors) or _Graph.of(results, tensors)
        for leaf in given:
            leaf.data = leaf.new_empty(0)  # autograd's graph holds the tensor
        return cls(node, read, numbers, trained, graph)

    def differentiate(self, gradient: Parts, regions: Sequence[Region]) -> OfCall:
        """The gradients of the operands and of the weights; once, as autograd allows.

        Parameters
        ----------
        gradient
            The gradient of the result.
        regions
            The region of each operand without padding, which has no gradient.
        """
        found = self.graph.gradients(gradient)
        of_operands = [
            [None if k is None else found.gradients[k] for k in each] for each in self.operands
        ]
        each = zip(of_operands, self.node.operand_axes, self.read, regions, strict=True)

        def weights() -> dict[str, torch.Tensor]:
            if found.later is not None:
                found.later()
            own = found.gradients[len(found.gradients) - len(self.weights) :]
            return {n: g for n, g in zip(self.weights, own, strict=True) if g is not None}

        return OfCall([_without_padding(*given) for given in each], weights, found.new_memory)


def _without_padding(parts: Parts, axes: Axes, read: Region, region: Region) -> Parts:
    if read == region:
        return parts
    return [None if part is None else axes.piece(part, read, region) for part in parts]


def _memory(tensor: torch.Tensor) -> int:
    """Where the memory lies that a tensor is a part of; 0 for a class that hides it."""
    try:
        return tensor.untyped_storage().data_ptr()
    except RuntimeError:
        return 0


def entering(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor as autograd's graph begins with it; whole numbers have no gradient."""
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return tensor
    # No view: PyTorch 2.13 differentiates a convolution in fp64 wrongly by a view of filters in
    # groups whose channels are last.
    return tensor.detach().requires_grad_()
