"""Watches a run for NaN and infinity, so that fused calls need not look for them in each operand.

oneDNN computes some activations as a maximum, in which NaN becomes a number (see
`spnb.kernels.onednn`).  To look through every operand of such calls takes up to a fifth of a run
that is bound by memory traffic.  NaN can only come from where values enter a rank, from its
weights, and from operators such as a division.  So these are looked through instead, and while
nothing was found, fused calls compute without a look.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

LIMIT = 1e6
"""Larger numbers count as found: a sum of their products might leave the range of fp32."""

_FINITE = """
    _softmax adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d add alias amax amin
    avg_pool1d avg_pool2d avg_pool3d batch_norm cat channel_shuffle clamp clamp_max clamp_min clone
    constant_pad_nd contiguous conv1d conv2d conv3d conv_transpose1d conv_transpose2d
    conv_transpose3d detach dropout elu expand flatten flip gelu getitem group_norm hardsigmoid
    hardswish hardtanh instance_norm layer_norm leaky_relu linear masked_fill matmul max_pool1d
    max_pool2d max_pool3d maximum mean minimum mish movedim mul neg pad permute pixel_shuffle
    pixel_unshuffle prelu reflection_pad1d reflection_pad2d reflection_pad3d relu relu6
    replication_pad1d replication_pad2d replication_pad3d reshape roll select sigmoid silu slice
    softmax squeeze sub sum tanh to transpose turned unflatten unsqueeze upsample_bicubic2d
    upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d
    upsample_trilinear3d view where
"""
FINITE = frozenset(_FINITE.split())
"""Operators that make neither NaN nor infinity of numbers of ordinary size."""


class _State(threading.local):
    """What the run of a thread has found; each rank of a process has its own thread."""

    clean: bool = False


_state = _State()


def is_clean() -> bool:
    """Whether this thread is in a watched run in which nothing was found so far."""
    return _state.clean


@contextmanager
def watched(clean: bool) -> Iterator[None]:
    """Watch the run of this thread, as long as this lasts.

    Parameters
    ----------
    clean
        Whether nothing was found before: in the weights, say.

    Examples
    --------
    >>> with watched(clean=True):
    ...     before = is_clean()
    ...     look(torch.tensor([1.0, float("nan")]))
    ...     before, is_clean()
    (True, False)
    """
    _state.clean = clean
    try:
        yield
    finally:
        _state.clean = False


def look(value: Any) -> None:
    """Look through a value of a watched run: a tensor, or a tuple of tensors."""
    if not _state.clean:
        return
    for tensor in floating(value):
        _state.clean &= within(tensor, LIMIT, torch.empty(2, dtype=tensor.dtype))


def floating(value: Any) -> Iterator[torch.Tensor]:
    """The tensors of a value that hold floating numbers, of at least one; it may be a tuple."""
    for tensor in value if isinstance(value, (tuple, list)) else (value,):
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and tensor.numel():
            yield tensor


def within(tensor: torch.Tensor, limit: float, bounds: torch.Tensor) -> bool:
    """Whether all numbers of a tensor are finite and at most ``limit`` in size.

    Parameters
    ----------
    tensor
        Has at least one number.
    limit
        The largest size.
    bounds
        Memory of two numbers, in which the smallest and the largest are stored.

    Examples
    --------
    >>> within(torch.tensor([1.0, -2.0]), 2.0, torch.empty(2))
    True
    """
    dims = tuple(range(tensor.ndim))
    torch.amin(tensor, dims, out=bounds[0])
    torch.amax(tensor, dims, out=bounds[1])
    low, high = bounds.tolist()
    return -limit <= low and high <= limit  # false for NaN
