"""A node of autograd's graph as a function, by what PyTorch does not promise to keep."""

from __future__ import annotations

from typing import Any

from torch.autograd.function import BackwardCFunction


def count_of_results(node: Any) -> int | None:
    """Return the number of results of a node, whose gradients it takes; None if it is not known.

    >>> import torch
    >>> x = torch.ones(2, requires_grad=True)
    >>> count_of_results((x * x).grad_fn), count_of_results(x.unbind()[0].grad_fn)
    (1, 2)
    """
    metadata = getattr(node, "_input_metadata", None)
    return None if metadata is None else len(metadata)


def differentiate(node: Any, gradients: list[Any]) -> Any:
    """Call a node with the gradients of its results; it gives those of what it reads."""
    return node.apply(*gradients) if in_python(node) else node(*gradients)


def in_python(node: Any) -> bool:
    """Whether a node is that of a `torch.autograd.Function`.

    Such a node gives a gradient for each argument; others give one for each tensor.
    """
    return isinstance(node, BackwardCFunction)
