"""Results of convolutions, written into memory that was allocated for them before.

PyTorch's convolutions take no argument for their result's memory.  They make an empty tensor of
size 0 with ``aten::empty``; oneDNN then sets its size and writes into its memory.  One that adds
another tensor makes it in its final size.  During a call of `written_into`, ``aten::empty`` returns
the memory that is meant for the result.

A second implementation of the operator does so.  It is registered once and for good, for a dispatch
key that no tensor has: autocast on a kind of device that PyTorch no longer has.  A thread switches
the key on for itself, during such a call: other threads of the process never meet it.  If a version
of PyTorch works in another way, results are copied.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch

from .onednn import FusedConvolution, fuses

KEY = "AutocastIPU"
"""The dispatch key of the second implementation."""

CONTIGUOUS = torch.contiguous_format


class _Expected(threading.local):
    """The memory for the next empty tensor of a thread, in the size in which it is asked for."""

    result: torch.Tensor | None = None


_expected = _Expected()


@cache
def _registered() -> tuple[Any, ...]:
    """The second implementation; every other operator passes over its key."""
    fallback, ours = (torch.library.Library(space, "IMPL") for space in ("_", "aten"))
    fallback.fallback(torch.library.fallthrough_kernel, KEY)
    ours.impl("empty.memory_format", _empty, KEY)
    return fallback, ours


@cache
def _works() -> bool:
    """Whether a convolution writes into the memory that it is given."""
    x, weight = torch.ones(1, 1, 2, 2, device="cpu"), torch.ones(1, 1, 1, 1, device="cpu")
    if not fuses(weight):
        return False
    convolution = FusedConvolution("conv2d", (1, 1), (0, 0), (1, 1))
    call = convolution.bind(convolution.reorder(weight, x.shape), None)
    memory = torch.zeros(1, 1, 2, 2, device="cpu")
    try:
        _registered()
        result = _call_into(call, _asked_for(memory, final_size=False), (x,))
    except (AttributeError, RuntimeError, TypeError):
        return False
    return result.data_ptr() == memory.data_ptr() and torch.equal(memory, x)


def written_into(
    call: Callable[..., torch.Tensor], memory: torch.Tensor, final_size: bool = False
) -> Callable[..., torch.Tensor]:
    """A call that writes its result into a given tensor, or copies it there if that fails.

    Parameters
    ----------
    call
        Computes a tensor of the shape and type of ``memory``.
    memory
        The tensor for the result.
    final_size
        Whether the call makes the tensor of its result in its final size, and not of size 0.

    Examples
    --------
    >>> memory = torch.zeros(3)
    >>> written_into(torch.neg, memory)(torch.ones(3)) is memory
    True
    """
    if not _works():
        return lambda *operands: memory.copy_(call(*operands))
    order, asked_for = _order(memory), _asked_for(memory, final_size)

    def into_memory(*operands: torch.Tensor) -> torch.Tensor:
        result = _call_into(call, asked_for, operands)
        if result.data_ptr() != memory.data_ptr():
            memory.copy_(result)
        elif _order(result) != order:  # written there, but in another memory order
            memory.copy_(result.clone())
        return memory

    return into_memory


def _call_into(
    call: Callable[..., torch.Tensor], memory: torch.Tensor, operands: Sequence[torch.Tensor]
) -> torch.Tensor:
    """The result of a call; its first empty tensor like the given memory gets it."""
    _expected.result = memory
    _switch(True)
    try:
        return call(*operands)
    finally:
        _switch(False)
        _expected.result = None


def _asked_for(memory: torch.Tensor, final_size: bool) -> torch.Tensor:
    """The memory as a call asks for it: of size 0, or without gaps where it has none."""
    if not final_size:
        return memory.as_strided((0,), (1,))
    images = torch.channels_last if memory.ndim == 4 else torch.channels_last_3d
    like = torch.empty(memory.shape, dtype=memory.dtype, device="meta", memory_format=images)
    # oneDNN reads the strides of dimensions with one position too.
    same = _order(like) == _order(memory)
    return memory.as_strided(like.shape, like.stride()) if same else memory


def _switch(on: bool) -> None:
    """Have this thread's empty tensors made by `_empty`, or no longer."""
    key = getattr(torch.DispatchKey, KEY)
    torch._C._dispatch_tls_set_dispatch_key_excluded(key, not on)  # keys of autocast are, else
    torch._C._dispatch_tls_set_dispatch_key_included(key, on)


def _order(tensor: torch.Tensor) -> list[int]:
    """Strides of the dimensions that have more than one position."""
    return [step for n, step in zip(tensor.shape, tensor.stride(), strict=True) if n > 1]


def _empty(size: Sequence[int], **options: Any) -> torch.Tensor:
    """Like `torch.empty`; but the expected result gets the memory that is meant for it."""
    memory = _expected.result
    _switch(False)
    if (
        memory is not None
        and tuple(size) == tuple(memory.shape)
        and options.get("dtype") == memory.dtype
        and memory.is_contiguous(memory_format=options.get("memory_format") or CONTIGUOUS)
    ):
        return memory.as_strided(memory.shape, memory.stride())  # a tensor that may be resized
    try:
        return torch.empty(size, **options)
    finally:
        _switch(True)
