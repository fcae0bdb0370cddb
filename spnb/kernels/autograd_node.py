"""A node of autograd's graph as a function, by what PyTorch does not promise to keep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import GradientEdge

Result = TypeVar("Result")


class _Apart(torch.autograd.Function):
    """Calls a function in its backward pass."""

    @staticmethod
    def forward(ctx: Any, number: torch.Tensor, work: Callable[[], None]) -> torch.Tensor:
        ctx.work = work
        return number.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[None, None]:
        ctx.work()
        return None, None


def apart(work: Callable[[], Result]) -> Result:
    """Call a function in a run of autograd's engine of its own; return its result.

    While ``torch.autograd.grad(loss, inputs)`` runs, nodes give gradients of what leads to these
    inputs alone.  That is also so for nodes of other graphs, which are called as functions.

    >>> import torch
    >>> x = torch.ones(2, requires_grad=True)
    >>> node = (x * 3).grad_fn
    >>> seen = []
    >>> class Outer(torch.autograd.Function):
    ...     @staticmethod
    ...     def forward(ctx, y):
    ...         return y.clone()
    ...     @staticmethod
    ...     def backward(ctx, g):
    ...         seen.extend([node(g)[0], apart(lambda: node(g))[0]])
    ...         return g
    >>> y = torch.ones(2, requires_grad=True)
    >>> _ = torch.autograd.grad(Outer.apply(y).sum(), y)
    >>> seen
    [None, tensor([3., 3.])]
    """
    found: list[Result] = []
    with torch.enable_grad():
        number = _Apart.apply(torch.zeros((), requires_grad=True), lambda: found.append(work()))
    number.backward()
    return found[0]


def count_of_results(node: Any) -> int | None:
    """Return the number of results of a node, whose gradients it takes; None if it is not known.

    >>> import torch
    >>> x = torch.ones(2, requires_grad=True)
    >>> count_of_results((x * x).grad_fn), count_of_results(x.unbind()[0].grad_fn)
    (1, 2)
    """
    metadata = getattr(node, "_input_metadata", None)
    return None if metadata is None else len(metadata)


def gradients_between(
    results: Sequence[GradientEdge],
    gradients: Sequence[torch.Tensor],
    given: Sequence[GradientEdge],
) -> list[torch.Tensor | None]:
    """Return the gradients of what a graph was given; None where no result depends on it.

    `torch.autograd.grad` compares shapes by SymPy, whose import takes 30 MiB of a process; here
    shapes are known to be equal.

    Parameters
    ----------
    results, gradients
        Where results leave the graph, and their gradients.
    given
        Where the graph begins.

    Examples
    --------
    >>> import torch
    >>> x = torch.ones(2, requires_grad=True)
    >>> y = x * 3
    >>> edges = map(torch.autograd.graph.get_gradient_edge, (y, x))
    >>> gradients_between([next(edges)], [torch.ones(2)], [next(edges)])
    [tensor([3., 3.])]
    """
    try:
        run = torch.autograd.graph._engine_run_backward
    except AttributeError:  # PyTorch does not promise it
        return list(torch.autograd.grad(results, given, gradients, allow_unused=True))
    keep_graph = create_graph = False
    how = {"allow_unreachable": True, "accumulate_grad": False}
    found = run(tuple(results), tuple(gradients), keep_graph, create_graph, tuple(given), **how)
    return list(found)


def in_python(node: Any) -> bool:
    """Whether a node is that of a `torch.autograd.Function`.

    Such a node gives a gradient for each argument; others give one for each tensor.
    """
    return isinstance(node, BackwardCFunction)


Later = Callable[[], Sequence[Any]]
"""Computes the gradients that were left out; the others are None."""

Differentiate = Callable[[Any, Sequence[Any]], tuple[Sequence[Any], Later | None]]
"""Calls a node with the gradients of its results; it gives those of what the node reads."""


def differentiating(node: Any) -> Differentiate:
    """The function that calls a node, and all nodes of calls with the same arguments.

    It leaves the gradients of a convolution's filters to later.  Messages of the gradient of the
    image may then be sent before those of the filters, which are sent at the end, are computed.
    Of a large image they come first: oneDNN copies it for them, and the copy is freed before the
    gradient of the image, which is as large, is made.

    >>> import torch
    >>> x = torch.ones(2, requires_grad=True)
    >>> node = (x * 3).grad_fn
    >>> differentiating(node)(node, [torch.ones(2)])
    ((tensor([3., 3.]), None), None)
    """
    if type(node).__name__ == "ConvolutionBackward0":
        try:
            _, _, *windows = [getattr(node, f"_saved_{name}") for name in _SAVED]
            return _convolution(windows, [before is not None for before, _ in node.next_functions])
        except AttributeError:
            pass  # PyTorch does not promise these names
    call = BackwardCFunction.apply if in_python(node) else type(node).__call__

    def differentiate(node: Any, gradients: Sequence[Any]) -> tuple[Sequence[Any], None]:
        found = call(node, *gradients)
        return found if isinstance(found, tuple) else (found,), None

    return differentiate


def _convolution(windows: Sequence[Any], reads: Sequence[bool]) -> Differentiate:
    """Calls nodes of convolutions with these windows, which read some of their three tensors."""
    wanted = [*reads, *[False] * (3 - len(reads))]

    def differentiate(node: Any, gradients: Sequence[Any]) -> tuple[Sequence[Any], Later | None]:
        given = (gradients[0], node._saved_input, node._saved_weight, *windows)

        def computed(mask: list[bool]) -> Any:
            return torch.ops.aten.convolution_backward(*given, mask)[: len(reads)]

        if not (wanted[0] and any(wanted[1:])):
            return computed(wanted), None
        if node._saved_input.nbytes >= LARGE:
            _, *of_filters = computed([False, *wanted[1:]])
            return (*computed([True, False, False])[:1], *of_filters), None
        return computed([True, False, False]), lambda: computed([False, *wanted[1:]])

    return differentiate


LARGE = 2**24
"""Bytes of an image whose gradient takes much longer to compute than its messages take."""

_SAVED = (
    *("input", "weight", "bias_sym_sizes_opt", "stride", "padding", "dilation", "transposed"),
    *("output_padding", "groups"),
)
