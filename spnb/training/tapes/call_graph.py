"""What autograd recorded of one call, and the gradients that it gives.

Most calls are one node of autograd's graph, which is called as a function; autograd's engine finds
its way through the others.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.graph import GradientEdge, get_gradient_edge

from ...kernels.autograd_node import (
    Differentiate,
    count_of_results,
    differentiating,
    gradients_between,
    in_python,
)
from .taped_call import TapedCall

Parts = list[torch.Tensor | None]
"""The gradients of the elements of a value."""


@dataclass(frozen=True)
class FoundGradients:
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
class OneNode:
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

    def gradients(self, of_results: Parts) -> FoundGradients:
        """The gradient of each tensor of the call."""
        found: Parts = [None] * len(self.wiring.shapes)
        given = [None if k is None else of_results[k] for k in self.wiring.results]
        if all(each is None for each in given):
            return FoundGradients(found)
        first, later = self.wiring.differentiate(self.node, given)
        self._add(found, first)
        memory = [_memory(each) for each in (*given, *first) if each is not None]
        return FoundGradients(
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
class SeveralNodes:
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
    def of(cls, results: Sequence[torch.Tensor], given: Sequence[torch.Tensor]) -> SeveralNodes:
        """The graph between given tensors and results."""
        edges = [get_gradient_edge(each) if each.requires_grad else None for each in results]
        return cls(edges, list(map(get_gradient_edge, given)))

    @property
    def nodes(self) -> list[Any]:
        """The nodes that make the results."""
        return [edge.node for edge in self.results if edge is not None]

    def gradients(self, of_results: Parts) -> FoundGradients:
        """The gradient of each tensor of the call."""
        pairs = zip(self.results, of_results, strict=True)
        known = [(edge, g) for edge, g in pairs if g is not None and edge is not None]
        if not (known and self.given):
            return FoundGradients([None] * len(self.given))
        edges, gradients = zip(*known, strict=True)
        return FoundGradients(gradients_between(edges, gradients, self.given))


CallGraph = OneNode | SeveralNodes
"""What autograd recorded of a call."""


def graph_of(
    call: TapedCall,
    results: Sequence[torch.Tensor],
    given: Sequence[torch.Tensor],
    with_gradient: Hashable,
) -> CallGraph:
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
        return SeveralNodes.of(results, given)
    # PyTorch chooses its nodes by what has a gradient, and by the order of memory.
    key = (type(node), with_gradient, *(each.is_contiguous() for each in given))
    if key not in call.known:
        call.known[key] = _Wiring.of(node, results, given)
    wiring = call.known[key]
    return SeveralNodes.of(results, given) if wiring is None else OneNode(node, wiring)


def _memory(tensor: torch.Tensor) -> int:
    """Where the memory lies that a tensor is a part of; 0 for a class that hides it."""
    try:
        return tensor.untyped_storage().data_ptr()
    except RuntimeError:
        return 0
