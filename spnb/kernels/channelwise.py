"""Products and sums of images channel by channel, by the kernels of PyTorch's own batch norm.

Where the numbers of a channel lie in one run of memory, as they do in training, these pass over
memory once; `torch.addcmul` and sums over several dimensions take up to three times as long.
"""

from __future__ import annotations

import math

import torch


def scaled(x: torch.Tensor, factor: torch.Tensor, term: torch.Tensor | None = None) -> torch.Tensor:
    """Compute ``x * factor + term``, with one number for each channel.

    Parameters
    ----------
    x
        ``(images, channels, *space)``.
    factor, term
        ``(1 or images, channels, *ones)``; without a term, none is added.

    Examples
    --------
    >>> x = torch.arange(4.0).view(1, 2, 1, 2)
    >>> scaled(x, torch.tensor([1.0, 2.0]).view(1, 2, 1, 1)).flatten().tolist()
    [0.0, 1.0, 4.0, 6.0]
    """
    if not _in_runs(x, factor):
        return x * factor if term is None else torch.addcmul(term, x, factor)
    numbers = _figures(factor)
    zero, one = torch.zeros_like(numbers), torch.ones_like(numbers)
    term = zero if term is None else _figures(term)
    runs = _by_number(x, factor)
    return torch.native_batch_norm(runs, numbers, term, zero, one, False, 0.0, 0.0)[0].view_as(x)


def sums(
    x: torch.Tensor, mean: torch.Tensor, of: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Sums of ``of`` and of ``of * (x - mean)`` over what a number of ``mean`` stands for.

    Parameters
    ----------
    x, of
        ``(images, channels, *space)``.
    mean
        ``(1 or images, channels, *ones)``.

    Returns
    -------
    (torch.Tensor, torch.Tensor) or None
        Each of the shape of ``mean``; None where numbers of a channel lie in no run of memory.

    Examples
    --------
    >>> x = torch.arange(4.0).view(1, 2, 1, 2)
    >>> [each.flatten().tolist() for each in sums(x, torch.ones(1, 2, 1, 1), of=x)]
    [[1.0, 5.0], [0.0, 8.0]]
    """
    if not (_in_runs(x, mean) and _in_runs(of, mean)):
        return None
    numbers = _figures(mean)
    one, runs = torch.ones_like(numbers), [_by_number(each, mean) for each in (of, x)]
    _, products, plain = torch.ops.aten.native_batch_norm_backward(
        *runs, one, numbers, one, None, None, False, 0.0, [False, True, True]
    )
    return plain.view_as(mean), products.view_as(mean)


def _in_runs(x: torch.Tensor, figure: torch.Tensor) -> bool:
    """Whether the kernels take a tensor, and are the fastest that there are."""
    plain = x.is_contiguous() and x.ndim > 2 and x.numel() > 0 and x.device.type == "cpu"
    return plain and x.dtype == figure.dtype and x.dtype in (torch.float32, torch.float64)


def _figures(figure: torch.Tensor) -> torch.Tensor:
    """The numbers of a figure in one run: the kernels of PyTorch 2.13 take any for one."""
    return figure.flatten().contiguous()


def _by_number(x: torch.Tensor, figure: torch.Tensor) -> torch.Tensor:
    """The tensor with as many channels as a figure has numbers."""
    return x.view(-1, figure.numel(), math.prod(x.shape[2:]))
