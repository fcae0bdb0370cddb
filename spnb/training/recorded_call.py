"""A call in training, between its forward and its backward pass: a part of autograd's graph.

The tensors that a call read hold no values any more: autograd itself keeps those that the
derivative needs.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.autograd.graph import GradientEdge, get_gradient_edge

from ..kernels.autograd_node import Differentiate, count_of_results, differentiating, in_python
from .tape_values import parts_of
from .taped_call import TapedCall

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
class _Wiring:
    """How the one node that makes the results of a call is connected to its tensors.

    Attributes
    ----------
    results
        For each result of the node, its number among those of the call; None for the others.
    reads
        For each tensor that the node reads, its number among those of the call; None for one
        without gradient.
    shapes, dtypes
        Shape and type of each tensor of the call.
    differentiate
        Calls the node with the gradients of its results.
    """

    results: Sequence[int | None]
    reads: Sequence[int | None]
    shapes: Sequence[torch.Size]
    dtypes: Sequence[torch.dtype]
    differentiate: Differentiate

    @classmethod
    def of(
        cls, node: Any, results: Sequence[torch.Tensor], given: Sequence[torch.Tensor]
    ) -> _Wiring | None:
        """The wiring between given tensors and results; None where the graph has more nodes."""
        count = count_of_results(node)
        if count is None:
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
        return cls(places, reads, shapes, dtypes, differentiating(node))


@dataclass(frozen=True)
class _OneNode:
    """Results that one node of autograd's graph makes of the tensors of a call.

    The node is called as a function.  Autograd's engine, which finds its way through any graph,
    takes ten times as long as a small node itself.

    Attributes
    ----------
    node
        The node: from the gradients of its results it computes those of what it reads.
    wiring
        Which tensors it reads, and which results it makes.
    """

    node: Any
    wiring: _Wiring

    @property
    def nodes(self) -> list[Any]:
        """The nodes that make the results."""
        return [self.node]

    def gradients(self, of_results: Parts) -> _Found:
        """The gradient of each tensor of the call."""
        found: Parts = [None] * len(self.wiring.shapes)
        given = [None if k is None else of_results[k] for k in self.wiring.results]
        if all(each is None for each in given):
            return _Found(found)
        first, later = self.wiring.differentiate(self.node, given)
        self._add(found, first)
        memory = [_memory(each) for each in (*given, *first) if each is not None]
        return _Found(
            found,
            None if later is None else lambda: self._add(found, later()),
            new_memory=len(set(memory)) == len(memory),
        )

    def _add(self, summed: Parts, found: Sequence[torch.Tensor | None]) -> None:
        """Add the gradients that the node gave to those of the call's tensors."""
        shapes, dtypes = self.wiring.shapes, self.wiring.dtypes
        for number, gradient in zip(self.wiring.reads, found, strict=True):
            if number is None or gradient is None:
                continue
            # A tensor may have been expanded, or cast; and a call may read one twice.
            if gradient.shape != shapes[number]:
                gradient = gradient.sum_to_size(shapes[number])
            if gradient.dtype != dtypes[number]:
                gradient = gradient.to(dtypes[number])
            before = summed[number]
            summed[number] = gradient if before is None else before + gradient


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
    graph: _OneNode | _Graph

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
        graph = _graph(call, parts_of(result), tensors, with_gradient)
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


def _graph(
    call: TapedCall,
    results: Sequence[torch.Tensor],
    given: Sequence[torch.Tensor],
    with_gradient: Hashable,
) -> _OneNode | _Graph:
    """What autograd recorded; how a node is connected is found out once for a call.

    Parameters
    ----------
    call
        The call.
    results, given
        Its results, and its tensors that have a gradient.
    with_gradient
        Tells which tensors these are.
    """
    node: Any = results[0].grad_fn if results else None
    if node is None or any(each.grad_fn is not node for each in results):
        return _Graph.of(results, given)
    # PyTorch chooses its nodes by what has a gradient, and by the order of memory.
    key = (type(node), with_gradient, *(each.is_contiguous() for each in given))
    if key not in call.known:
        call.known[key] = _Wiring.of(node, results, given)
    wiring = call.known[key]
    return _Graph.of(results, given) if wiring is None else _OneNode(node, wiring)


@cache
def _nothing(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.empty(0, dtype=dtype, device=device)


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
