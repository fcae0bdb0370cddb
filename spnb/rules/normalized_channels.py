"""Normalization of channels by merged moments, and its derivative."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from ..kernels import channelwise
from .statistics import summed, summed_by_parts


def channels_of(figure: torch.Tensor, channels: int) -> torch.Tensor:
    """A figure of each group, ``(images, groups, 1, *space)``, for each of the channels."""
    each = channels // figure.shape[1]
    return figure.expand(-1, -1, each, *figure.shape[3:]).flatten(1, 2)


def along_channels(weight: torch.Tensor, ndim: int) -> torch.Tensor:
    """A weight of each channel as a tensor of so many dimensions."""
    return weight.reshape(-1, *[1] * (ndim - 2))


def factor_and_term(
    x: torch.Tensor,
    moments: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The normalized value is ``x * factor + term``, with a factor and a term for each channel.

    Parameters
    ----------
    x
        The value, ``(images, channels, *space)``.
    moments
        Count, mean and squared deviations of each group, in the last dimension.
    weight, bias
        One number for each channel.
    eps
        Is added to the variance.
    """
    count, mean, squares = moments.unbind(-1)
    spread = (squares / count + eps).rsqrt()
    factor, term = (channels_of(figure, x.shape[1]) for figure in (spread, -mean * spread))
    if weight is not None:
        weight = along_channels(weight, x.ndim)
        factor, term = factor * weight, term * weight
    return factor, term if bias is None else term + along_channels(bias, x.ndim)


class NormalizedChannels(torch.autograd.Function):
    """The normalized value; autograd holds the value and the moments, and records one node.

    With ``s = 1 / sqrt(squares / count + eps)``, of each group, and ``y = (x - mean) s w + b``::

        dx = g s w        dmean = - Σ g s w        dsquares = - Σ g (x - mean) w · s³ / (2 count)
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        moments: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        eps: float,
    ) -> torch.Tensor:
        factor, term = factor_and_term(x, moments, weight, bias, eps)
        ctx.save_for_backward(x, moments, weight)
        ctx.eps = eps
        return channelwise.scaled(x, factor, term)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, moments, weight = ctx.saved_tensors
        count, mean, squares = moments.unbind(-1)
        spread, channels = (squares / count + ctx.eps).rsqrt(), x.shape[1]
        factor = channels_of(spread, channels)
        if weight is not None:
            factor = factor * along_channels(weight, x.ndim)
        total, deviations = _sums(x, channels_of(mean, channels), g)
        of_x = channelwise.scaled(g, factor) if ctx.needs_input_grad[0] else None
        of_weight = of_bias = None
        if weight is not None:
            of_weight = (deviations * channels_of(spread, channels)).sum(0).reshape(weight.shape)
        if ctx.needs_input_grad[3]:
            of_bias = total.sum(0).flatten()
        scaled = [each * factor for each in (total, deviations)]
        of_mean, of_spread = (
            each.unflatten(1, (spread.shape[1], -1)).sum(2, keepdim=True) for each in scaled
        )
        of_squares = of_spread * spread.square() / (-2 * count)
        of_moments = torch.stack([torch.zeros_like(of_mean), -of_mean, of_squares], dim=-1)
        return of_x, of_moments.reshape(moments.shape), of_weight, of_bias, None


def _sums(
    x: torch.Tensor, mean: torch.Tensor, g: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sums of a gradient, and of its products with deviations from means."""
    if (found := channelwise.sums(x, mean, of=g)) is not None:
        return found
    dims = [d for d in range(x.ndim) if mean.shape[d] == 1]
    deviations = summed_by_parts(lambda few, of: (few - mean).mul_(of), [x, g], dims)
    return summed(g, dims), deviations
