"""Normalization of channels by merged moments, and its derivative."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from ...kernels import channelwise
from .statistics import summed, summed_by_parts


def channels_of(figure: torch.Tensor, channels: int) -> torch.Tensor:
    """A figure for each of the channels.

    Parameters
    ----------
    figure
        That of each channel, ``(images, channels, *space)``, or of each group,
        ``(images, groups, 1, *space)``.
    channels
        Number of channels.
    """
    if figure.shape[1] == channels:
        return figure
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
        ctx.save_for_backward(x, moments, weight)
        ctx.eps = eps
        if _one_for_each_channel(x, moments, weight, bias):
            return _norm(moments, weight, bias, eps).of(x)
        factor, term = factor_and_term(x, moments, weight, bias, eps)
        return channelwise.scaled(x, factor, term)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, moments, weight = ctx.saved_tensors
        if _one_for_each_channel(x, moments, weight) and g.is_contiguous():
            return NormalizedChannels._by_channel(ctx, g, x, moments, weight)
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
            each.unflatten(1, (spread.shape[1], -1)).sum(2).view_as(count) for each in scaled
        )
        of_squares = of_spread * spread.square() / (-2 * count)
        of_moments = torch.stack([torch.zeros_like(of_mean), -of_mean, of_squares], dim=-1)
        return of_x, of_moments, of_weight, of_bias, None

    @staticmethod
    def _by_channel(
        ctx: Any,
        g: torch.Tensor,
        x: torch.Tensor,
        moments: torch.Tensor,
        weight: torch.Tensor | None,
    ) -> tuple[torch.Tensor | None, ...]:
        """The same where each channel has moments of its own, in one call of PyTorch's kernel."""
        norm = _norm(moments, weight, None, ctx.eps)
        of_x, of_weight, of_bias = norm.backward(g, x, ctx.needs_input_grad[0])
        spread = (norm.variance + ctx.eps).rsqrt()
        factor = spread if weight is None else spread * weight
        of_moments = torch.zeros_like(moments)
        _, of_mean, of_squares = of_moments.view(-1, 3).unbind(1)
        torch.mul(of_bias, factor, out=of_mean).neg_()
        torch.mul(of_weight, factor, out=of_squares).mul_(spread).div_(moments.view(-1, 3)[:, 0])
        of_squares.mul_(-0.5)
        return (
            of_x,
            of_moments,
            None if weight is None else of_weight,
            of_bias if ctx.needs_input_grad[3] else None,
            None,
        )


def _one_for_each_channel(
    x: torch.Tensor, moments: torch.Tensor, *weights: torch.Tensor | None
) -> bool:
    """Whether all images share the moments of each channel, in the order that kernels need."""
    alike = moments.shape[0] == 1 and moments.numel() == 3 * x.shape[1]
    typed = all(weight is None or weight.dtype == x.dtype for weight in weights)
    return alike and typed and moments.is_contiguous() and channelwise.in_runs(x, moments)


def _norm(
    moments: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float
) -> channelwise.ChannelNorm:
    count, mean, squares = moments.view(-1, 3).unbind(1)
    return channelwise.ChannelNorm(mean, squares / count, weight, bias, eps)


def _sums(
    x: torch.Tensor, mean: torch.Tensor, g: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sums of a gradient, and of its products with deviations from means."""
    if (found := channelwise.sums(x, mean, of=g)) is not None:
        return found
    dims = [d for d in range(x.ndim) if mean.shape[d] == 1]
    deviations = summed_by_parts(lambda few, of: (few - mean).mul_(of), [x, g], dims)
    return summed(g, dims), deviations
