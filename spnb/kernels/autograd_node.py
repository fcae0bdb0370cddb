"""A node of autograd's graph as a function, by what PyTorch does not promise to keep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
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


def differentiate_in_two(
    node: Any, gradients: Sequence[Any]
) -> tuple[Any, Callable[[], Sequence[Any]] | None]:
    """Call a node as `differentiate` does; leave the gradients of a convolution's filters to later.

    Messages of the gradient of the image may then be sent before those of the filters, which are
    sent at the end, are computed.

    Returns
    -------
    object
        The gradients that are computed.
    callable or None
        Computes the others; in both, the gradients of the other one are None.
    """
    names = ("input", "weight", "bias_sym_sizes_opt", *_WINDOWS)
    if type(node).__name__ != "ConvolutionBackward0":
        return differentiate(node, list(gradients)), None
    try:
        saved = [getattr(node, f"_saved_{name}") for name in names]
    except AttributeError:
        return differentiate(node, list(gradients)), None
    wanted = [before is not None for before, _ in node.next_functions]
    wanted += [False] * (3 - len(wanted))

    @torch.no_grad()
    def computed(mask: list[bool]) -> Any:
        return torch.ops.aten.convolution_backward(gradients[0], *saved, mask)

    if not (wanted[0] and any(wanted[1:])):
        return computed(wanted), None
    return computed([True, False, False]), lambda: computed([False, *wanted[1:]])


_WINDOWS = ("stride", "padding", "dilation", "transposed", "output_padding", "groups")
