"""Products, sums and norms of images channel by channel, by the kernels of PyTorch's batch norm.

Where the numbers of a channel lie in one run of memory, as they do in training, these pass over
memory once; `torch.addcmul` and sums over several dimensions take up to three times as long.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

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
    if not in_runs(x, factor):
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
    if not (in_runs(x, mean) and in_runs(of, mean)):
        return None
    numbers = _figures(mean)
    one, runs = torch.ones_like(numbers), [_by_number(each, mean) for each in (of, x)]
    _, products, plain = torch.ops.aten.native_batch_norm_backward(
        *runs, one, numbers, one, None, None, False, 0.0, [False, True, True]
    )
    return plain.view_as(mean), products.view_as(mean)


def moments(x: torch.Tensor, shape: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Means, and mean squared deviations from them.

    Parameters
    ----------
    x
        ``(images, channels, *space)``.
    shape
        Shape of the figures, ``(1 or images, channels, *ones)``.

    Returns
    -------
    (torch.Tensor, torch.Tensor) or None
        Each of this shape; None where numbers of a channel lie in no run of memory.

    Examples
    --------
    >>> x = torch.arange(4.0).view(1, 2, 1, 2)
    >>> [each.flatten().tolist() for each in moments(x, (1, 2, 1, 1))]
    [[0.5, 2.5], [0.25, 0.25]]
    """
    like = x.new_empty(()).expand(shape)
    if not in_runs(x, like):
        return None
    mean, variance = torch.ops.aten.batch_norm_update_stats(_by_number(x, like), None, None, 0.0)
    return mean.view(shape), variance.view(shape)


@dataclass(frozen=True)
class ChannelNorm:
    """Batch norm with given figures: ``y = (x - mean) / sqrt(variance + eps) * weight + bias``.

    Parameters
    ----------
    mean, variance
        One number for each channel.
    weight, bias
        One for each channel; None for 1 and 0.
    eps
        Is added to the variance.
    """

    mean: torch.Tensor
    variance: torch.Tensor
    weight: torch.Tensor | None
    bias: torch.Tensor | None
    eps: float

    def of(self, x: torch.Tensor) -> torch.Tensor:
        """Normalize ``(images, channels, *space)``, where `in_runs` holds.

        Examples
        --------
        >>> one = torch.ones(1)
        >>> norm = ChannelNorm(mean=one, variance=one * 4, weight=None, bias=one, eps=0.0)
        >>> norm.of(torch.tensor([[[[3.0, 5.0]]]])).tolist()
        [[[[2.0, 3.0]]]]
        """
        weight, mean, variance = self._in_runs
        bias = None if self.bias is None else self.bias.contiguous()
        return torch.native_batch_norm(x, weight, bias, mean, variance, False, 0.0, self.eps)[0]

    def backward(
        self, of_y: torch.Tensor, x: torch.Tensor, of_x: bool
    ) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]:
        """The gradients of ``x`` (if ``of_x``), of the weight and of the bias; figures are fixed.

        Examples
        --------
        >>> one = torch.ones(1)
        >>> norm = ChannelNorm(mean=one, variance=one * 4, weight=None, bias=one, eps=0.0)
        >>> x = torch.tensor([[[[3.0, 5.0]]]])
        >>> [each.tolist() for each in norm.backward(torch.ones_like(x), x, of_x=True)]
        [[[[[0.5, 0.5]]]], [3.0], [2.0]]
        """
        given = (of_y, x, *self._in_runs, None, None)
        return torch.ops.aten.native_batch_norm_backward(
            *given, False, self.eps, [of_x, True, True]
        )

    @property
    def _in_runs(self) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]:
        """Weight, mean and variance in one run each: PyTorch 2.13's kernels take any for one."""
        weight = None if self.weight is None else self.weight.contiguous()
        return weight, self.mean.contiguous(), self.variance.contiguous()


def in_runs(x: torch.Tensor, figure: torch.Tensor) -> bool:
    """Whether the kernels take a tensor, and are the fastest that there are."""
    plain = x.is_contiguous() and x.ndim > 2 and x.numel() > 0 and x.device.type == "cpu"
    return plain and x.dtype == figure.dtype and x.dtype in (torch.float32, torch.float64)


def _figures(figure: torch.Tensor) -> torch.Tensor:
    """The numbers of a figure in one run: the kernels of PyTorch 2.13 take any for one."""
    return figure.flatten().contiguous()


def _by_number(x: torch.Tensor, figure: torch.Tensor) -> torch.Tensor:
    """The tensor with as many channels as a figure has numbers."""
    return x.view(-1, figure.numel(), math.prod(x.shape[2:]))
