"""Attention of queries over some of the keys, in a form in which several such parts are merged.

The scores of all queries and keys are never in memory at once.  A block of queries has its scores
computed, used and dropped (Dao et al., *FlashAttention*, 2022).  Beside the result over some keys
there are two figures for each query: the largest score ``t``, and the sum ``s`` of the exponentials
of all scores less ``t``.  With them, results over disjoint keys are merged exactly (Liu et al.,
*Ring attention*, 2023)::

    keys      │ some            │ others          │
    partial   │ o₁, t₁, s₁      │ o₂, t₂, s₂      │
    merged    t = max(t₁, t₂)    cₖ = sₖ exp(tₖ - t)    s = c₁ + c₂    o = (c₁ o₁ + c₂ o₂) / s
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch

from .compat import cpu_flash_attention
from .sum_types import precise

BLOCK_BYTES = 8 << 20
"""Bytes of the scores of a block of queries."""

Gradients = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]
"""Of queries, keys, values and bias."""


@dataclass(frozen=True)
class Masking:
    """What changes the scores before the softmax: first the bias, then the two masks.

    Attributes
    ----------
    bias
        Added to the scores, which it is broadcast against.
    masked
        True where a score is replaced by ``fill``.
    fill
        The score of a masked key; minus infinity hides it.
    positions
        Numbers of the queries and of the keys, if a query reads only the keys up to its own number.
    """

    bias: torch.Tensor | None = None
    masked: torch.Tensor | None = None
    fill: float = -math.inf
    positions: tuple[torch.Tensor, torch.Tensor] | None = None

    @property
    def changes_nothing(self) -> bool:
        """Whether scores stay as they are."""
        return self.bias is None and self.masked is None and self.positions is None

    def applied(self, scores: torch.Tensor, rows: slice) -> torch.Tensor:
        """The changed scores of some queries."""
        if self.bias is not None:
            scores = scores + _rows_of(self.bias, rows)
        if self.masked is not None:
            scores = scores.masked_fill(_rows_of(self.masked, rows), self.fill)
        if self.positions is not None:
            queries, keys = self.positions
            scores = scores.masked_fill(queries[rows, None] < keys, -math.inf)
        return scores

    def without_fixed(self, gradient: torch.Tensor, rows: slice) -> torch.Tensor:
        """The gradient of some scores; a score that is replaced has none."""
        if self.masked is None or self.fill == -math.inf:  # a hidden key has a weight of zero
            return gradient
        return gradient.masked_fill(_rows_of(self.masked, rows), 0)


UNMASKED = Masking()


def _rows_of(tensor: torch.Tensor, rows: slice) -> torch.Tensor:
    """The rows of a tensor that is broadcast against scores."""
    return tensor if tensor.ndim < 2 or tensor.shape[-2] == 1 else tensor[..., rows, :]


class Partial(NamedTuple):
    """Attention over some keys.

    Attributes
    ----------
    result
        ``(*batch, queries, channels)``; 0 for a query that reads no key.
    top, total
        ``(*batch, queries, 1)``: the largest score, and the sum of the exponentials of all scores
        less it; minus infinity and 0 for a query that reads no key.
    """

    result: torch.Tensor
    top: torch.Tensor
    total: torch.Tensor


def attended(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    masking: Masking = UNMASKED,
) -> Partial:
    """Attention over some keys.

    Parameters
    ----------
    query, key, value
        ``(*batch, queries, channels)``, ``(*batch, keys, channels)`` and ``(*batch, keys,
        channels)``, with equal batches.
    scale
        Factor of the scores.
    masking
        What changes the scores.

    Returns
    -------
    Partial
        In fp32 for half precision.

    Examples
    --------
    >>> query, key = torch.zeros(1, 2), torch.ones(3, 2)
    >>> attended(query, key, key, scale=1.0).result
    tensor([[1., 1.]])
    """
    if masking.changes_nothing and (flash := _flash()) is not None and _serves(query, key, value):
        return _by_flash(flash, query, key, value, scale)
    return in_blocks(query, key, value, scale, masking)


def in_blocks(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    masking: Masking = UNMASKED,
) -> Partial:
    """What `attended` computes, by PyTorch's public operators."""
    dtype, shape = precise(value.dtype), query.shape[:-1]
    found = Partial(
        result=value.new_zeros((*shape, value.shape[-1]), dtype=dtype),
        top=value.new_full((*shape, 1), -math.inf, dtype=dtype),
        total=value.new_zeros((*shape, 1), dtype=dtype),
    )
    if not key.shape[-2]:
        return found
    key, value = key.to(dtype), value.to(dtype)
    for rows in _blocks(query, key):
        scores = masking.applied(_scores(query, key, scale, rows), rows)
        top = scores.amax(-1, keepdim=True)
        exponentials = (scores - top.masked_fill(top == -math.inf, 0)).exp_()
        total = exponentials.sum(-1, keepdim=True)
        found.result[..., rows, :] = exponentials @ value / total.masked_fill(total == 0, 1)
        found.top[..., rows, :], found.total[..., rows, :] = top, total
    return found


def attended_backward(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    masking: Masking,
    *,
    gradient: torch.Tensor,
    top: torch.Tensor,
    total: torch.Tensor,
    expected: torch.Tensor,
    bias_too: bool,
) -> Gradients:
    """The gradients of attention, as far as they come from some of its keys.

    Parameters
    ----------
    query, key, value, scale, masking
        As of `attended`.
    gradient
        Of the result over all keys.
    top, total
        As of `Partial`, over all keys.
    expected
        For each query, the product of the result over all keys and its gradient.
    bias_too
        Whether the bias has a gradient.
    """
    dtype = gradient.dtype
    of_query = torch.zeros_like(query, dtype=dtype)
    of_key, of_value = torch.zeros_like(key, dtype=dtype), torch.zeros_like(value, dtype=dtype)
    bias = masking.bias if bias_too else None
    of_bias = None if bias is None else torch.zeros_like(bias, dtype=dtype)
    if key.shape[-2]:
        keys, values = key.to(dtype), value.to(dtype)
        # A query that reads no key has weights of zero: exp(score - inf).
        top = top.masked_fill(top == -math.inf, math.inf)
        total = total.masked_fill(total == 0, 1)
        for rows in _blocks(query, keys):
            scores = masking.applied(_scores(query, keys, scale, rows), rows)
            weights = (scores - top[..., rows, :]).exp_().div_(total[..., rows, :])
            of_rows = gradient[..., rows, :]
            of_value += weights.mT @ of_rows
            of_scores = weights * (of_rows @ values.mT - expected[..., rows, :])
            of_scores = masking.without_fixed(of_scores, rows)
            if of_bias is not None:
                target = _rows_of(of_bias, rows)
                target += of_scores.sum_to_size(target.shape)
            of_query[..., rows, :] = of_scores @ keys * scale
            of_key += of_scores.mT @ query[..., rows, :].to(dtype) * scale
    if bias is not None and of_bias is not None:
        of_bias = of_bias.to(bias.dtype)
    return of_query.to(query.dtype), of_key.to(key.dtype), of_value.to(value.dtype), of_bias


def _scores(query: torch.Tensor, key: torch.Tensor, scale: float, rows: slice) -> torch.Tensor:
    """The scores of some queries, before anything changes them."""
    return query[..., rows, :].to(key.dtype) * scale @ key.mT


def _blocks(query: torch.Tensor, key: torch.Tensor) -> Iterator[slice]:
    """The queries, in blocks whose scores take `BLOCK_BYTES` or less."""
    count = query.shape[-2]
    of_one = math.prod(query.shape[:-2]) * key.shape[-2] * key.dtype.itemsize
    rows = max(1, BLOCK_BYTES // max(1, of_one))
    return (slice(start, min(start + rows, count)) for start in range(0, count, rows))


# --- PyTorch's own kernel -------------------------------------------------------------------------

Flash = Callable[..., Sequence[torch.Tensor]]


@cache
def _flash() -> Flash | None:
    """PyTorch's kernel for CPUs, if it has one that gives what `in_blocks` does."""
    flash = cpu_flash_attention()
    if flash is None:
        return None
    query, key, value = torch.linspace(-1, 1, 72, dtype=torch.float64).view(3, 1, 2, 3, 4).unbind()
    try:
        found = _by_flash(flash, query, key.flip(2), value, scale=0.5)
        expected = in_blocks(query, key.flip(2), value, scale=0.5)
        logarithms = expected.top + expected.total.log()
        same = torch.allclose(found.result, expected.result, rtol=1e-12)
        return flash if same and torch.allclose(found.top, logarithms, rtol=1e-12) else None
    except (RuntimeError, TypeError, ValueError, IndexError):
        return None


def _serves(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether PyTorch's kernel can be given these tensors."""
    alike = query.dtype == key.dtype == value.dtype and query.shape[:-2] == key.shape[:-2]
    alike = alike and query.shape[-1] == key.shape[-1] == value.shape[-1]
    some = query.numel() > 0 and key.numel() > 0
    exact = query.dtype in (torch.float32, torch.float64)  # it rounds half precision too early
    return alike and some and exact and query.device.type == "cpu"


def _by_flash(
    flash: Flash, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
) -> Partial:
    """What `attended` computes, by PyTorch's kernel, which takes four dimensions.

    The kernel gives the logarithm of the sum of exponentials; it stands for the largest score, with
    a sum of 1.
    """
    shape = query.shape[:-1]

    def in_four(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor if tensor.stride(-1) == 1 else tensor.contiguous()
        if tensor.ndim > 4:
            return tensor.flatten(0, -4)
        return tensor[(None,) * (4 - tensor.ndim)]

    result, logarithms, *_ = flash(in_four(query), in_four(key), in_four(value), scale=scale)
    top = logarithms.reshape(*shape, 1)
    return Partial(result.reshape(*shape, value.shape[-1]), top, torch.ones_like(top))
