"""The state of attention that is given its keys in parts, one part after another.

The state of a query is its result over the keys so far, the largest score, the sum of exponentials
(see `spnb.kernels.attention`), and one column more::

    channels of the result … │ top │ total │ spare

**Its gradient** has other columns than a derivative would have.  The gradients of queries, keys and
values follow from the *last* state only: from the gradient ``g`` of the result, the two figures,
and ``e``, the product of ``g`` and the result (Dao et al., *FlashAttention*, 2022).  So `result_of`
gives these back as the gradient of the last state, ``g │ top │ total │ e``, and each part of the
keys passes them on unchanged.  No state but the last is needed.  For this to be right, a state is
read exactly once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch

from .attention import Masking, Partial, attended, attended_backward

EXTRA = 3
"""Columns of a state beside the channels of the result."""


def with_keys(
    state: torch.Tensor | None,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    masking: Masking,
) -> torch.Tensor:
    """The state once more keys have been read.

    Parameters
    ----------
    state
        ``(*batch, queries, channels + EXTRA)``; None before the first keys.
    query, key, value
        ``(*batch, queries, channels)``, and some keys with their values.  Several heads of queries
        may share a head of keys.
    scale
        Factor of the scores.
    masking
        What changes the scores of these keys.

    Examples
    --------
    >>> query, key = torch.zeros(1, 2), torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    >>> state = with_keys(None, query, key[:1], key[:1], 1.0, Masking())
    >>> result_of(with_keys(state, query, key[1:], key[1:], 1.0, Masking()), torch.float32)
    tensor([[2., 4.]])
    """
    heads = _SharedHeads.of(query, key, value)
    if heads is None:
        return _applied(state, query, key, value, scale, masking)
    given = None if state is None else heads.rows(state)
    found = _applied(given, heads.rows(query), key, value, scale, heads.masking(masking))
    return heads.undone(found)


def result_of(
    state: torch.Tensor, dtype: torch.dtype, nan_without_keys: bool = False
) -> torch.Tensor:
    """The result of attention, once all keys have been read.

    Parameters
    ----------
    state
        The last state.
    dtype
        Type of the result.
    nan_without_keys
        Whether a query that reads no key has the result NaN, as a softmax of minus infinities has,
        and not 0.
    """
    result: torch.Tensor = _Result.apply(state, nan_without_keys)
    return result.to(dtype)


def merged_states(states: torch.Tensor, d: int) -> torch.Tensor:
    """The state after the keys of several states, each of which was the first of its keys.

    Parameters
    ----------
    states
        The states, one after another along a dimension.
    d
        The dimension; the result has it too, with size 1.

    Examples
    --------
    >>> query, key = torch.zeros(1, 2), torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    >>> states = [with_keys(None, query, k, k, 1.0, Masking()) for k in key.split(1)]
    >>> result_of(merged_states(torch.stack(states), 0)[0], torch.float32)
    tensor([[2., 4.]])
    """
    joint: torch.Tensor = _Merged.apply(states, d)
    return joint


class _Merged(torch.autograd.Function):
    """The joint state; each state gets its gradient unchanged."""

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, d: int) -> torch.Tensor:
        ctx.shape = states.shape
        result, tops, totals, _ = states.split([states.shape[-1] - EXTRA, 1, 1, 1], dim=-1)
        top = tops.amax(d, keepdim=True)
        totals = totals * (tops - top.masked_fill(top == -math.inf, 0)).exp()
        total = totals.sum(d, keepdim=True)
        shares = totals / total.masked_fill(total == 0, 1)
        joint = (result * shares).sum(d, keepdim=True)
        return torch.cat([joint, top, total, torch.zeros_like(total)], dim=-1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0].expand(ctx.shape), None


def _applied(
    state: torch.Tensor | None,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    masking: Masking,
) -> torch.Tensor:
    """The state once more keys have been read; each head of queries has a head of keys."""
    batch = torch.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2])
    query, key, value = (t.expand(*batch, *t.shape[-2:]) for t in (query, key, value))
    if not torch.is_grad_enabled():
        return _merged(state, attended(query, key, value, scale, masking))
    found: torch.Tensor = _WithKeys.apply(state, query, key, value, masking.bias, scale, masking)
    return found


class _WithKeys(torch.autograd.Function):
    """One part of the keys; the scores are computed again for the gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        state: torch.Tensor | None,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        bias: torch.Tensor | None,
        scale: float,
        masking: Masking,
    ) -> torch.Tensor:
        ctx.save_for_backward(query, key, value, bias)
        ctx.scale, ctx.masking = scale, replace(masking, bias=None)
        return _merged(state, attended(query, key, value, scale, masking))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (passed_on,) = gradients
        query, key, value, bias = ctx.saved_tensors
        found = attended_backward(
            query,
            key,
            value,
            ctx.scale,
            replace(ctx.masking, bias=bias),
            gradient=passed_on[..., :-EXTRA],
            top=passed_on[..., -3:-2],
            total=passed_on[..., -2:-1],
            expected=passed_on[..., -1:],
            bias_too=ctx.needs_input_grad[4],
        )
        return (passed_on if ctx.needs_input_grad[0] else None, *found, None, None)


class _Result(torch.autograd.Function):
    """The result, from the last state."""

    @staticmethod
    def forward(ctx: Any, state: torch.Tensor, nan_without_keys: bool) -> torch.Tensor:
        ctx.save_for_backward(state)
        result = state[..., :-EXTRA]
        if nan_without_keys:
            return result.masked_fill(state[..., -2:-1] == 0, math.nan)
        return result.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (gradient,), (state,) = gradients, ctx.saved_tensors
        expected = (gradient * state[..., :-EXTRA]).sum(-1, keepdim=True)
        return torch.cat([gradient, state[..., -3:-1], expected], dim=-1), None


def _merged(state: torch.Tensor | None, more: Partial) -> torch.Tensor:
    """The state after some more keys, from the attention over these alone."""
    channels = more.result.shape[-1]
    found = more.result.new_empty((*more.result.shape[:-1], channels + EXTRA))
    found[..., -1] = 0
    if state is None:
        found[..., :channels], found[..., -3:-2], found[..., -2:-1] = more
        return found
    result, top_before, total_before, _ = state.split([channels, 1, 1, 1], dim=-1)
    top = torch.maximum(top_before, more.top)
    finite = top.masked_fill(top == -math.inf, 0)
    before = total_before * (top_before - finite).exp()
    after = more.total * (more.top - finite).exp()
    total = before + after
    found[..., -3:-2], found[..., -2:-1] = top, total
    total = total.masked_fill(total == 0, 1)
    torch.mul(result, before / total, out=found[..., :channels])
    found[..., :channels].addcmul_(more.result, after / total)
    return found


@dataclass(frozen=True)
class _SharedHeads:
    """Heads of queries that share a head of keys: they are read as more queries of one head.

    Attributes
    ----------
    count
        Number of heads of keys.
    times
        Heads of queries for each.
    queries
        Number of queries.
    """

    count: int
    times: int
    queries: int

    @classmethod
    def of(cls, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> _SharedHeads | None:
        """The heads that are shared; None if each head of queries has a head of keys."""
        if query.ndim < 3 or key.shape[:-2] != value.shape[:-2]:
            return None
        times, rest = divmod(query.shape[-3], key.shape[-3])
        return None if rest or times < 2 else cls(key.shape[-3], times, query.shape[-2])

    def rows(self, tensor: torch.Tensor) -> torch.Tensor:
        """``(*batch, heads, queries, …)`` with the queries of all heads that share one in a row."""
        return tensor.unflatten(-3, (self.count, self.times)).flatten(-3, -2)

    def undone(self, tensor: torch.Tensor) -> torch.Tensor:
        """What `rows` was given."""
        return tensor.unflatten(-2, (self.times, self.queries)).flatten(-4, -3)

    def masking(self, masking: Masking) -> Masking:
        """The same changes of the scores in rows."""
        positions = masking.positions
        if positions is not None:
            positions = (positions[0].repeat(self.times), positions[1])
        bias, masked = self._broadcast(masking.bias), self._broadcast(masking.masked)
        return replace(masking, bias=bias, masked=masked, positions=positions)

    def _broadcast(self, tensor: torch.Tensor | None) -> torch.Tensor | None:
        """A tensor that is broadcast against scores, in rows."""
        if tensor is None or tensor.ndim < 2:
            return tensor
        each_head_alike = tensor.ndim < 3 or tensor.shape[-3] == 1
        if each_head_alike and tensor.shape[-2] == 1:
            return tensor
        queries, keys = self.queries, tensor.shape[-1]
        if each_head_alike:
            shape = (*tensor.shape[:-2], self.times, queries, keys)
            return tensor.unsqueeze(-3).expand(shape).flatten(-3, -2)
        return self.rows(tensor.expand(*tensor.shape[:-2], queries, keys))
