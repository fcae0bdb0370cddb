"""Results of convolutions, written into memory that was allocated for them before.

PyTorch's convolutions take no argument for their result's memory.  They make an empty tensor of
size 0 with ``aten::empty``; oneDNN then sets its size and writes into its memory.  Inside the
context `writing_in_place`, ``aten::empty`` is replaced.  A call of `written_into` then gets the
memory of its result from it, and every other call gets new memory as usual.  If a version of
PyTorch works in another way, the result is copied.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

from .onednn import FusedConvolution, fuses


class _Expected(threading.local):
    """The memory for the next empty tensor of a thread."""

    result: torch.Tensor | None = None


class _Replacement:
    """The replacement of ``aten::empty``, while at least one context in the process needs it."""

    def __init__(self) -> None:
        self._lock, self._users = threading.Lock(), 0
        self._library: Any = None

    def begin(self) -> None:
        """Replace the operator, unless it is already replaced."""
        with self._lock:
            if self._users == 0:
                self._library = torch.library.Library("aten", "IMPL")
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # PyTorch warns that an operator is replaced
                    self._library.impl("empty.memory_format", _empty, "CPU")
            self._users += 1

    def end(self) -> None:
        """Restore PyTorch's operator, if no other context needs the replacement."""
        with self._lock:
            self._users -= 1
            if self._users == 0:
                if destroy := getattr(self._library, "_destroy", None):
                    destroy()
                self._library = None  # a library that cannot be destroyed ends with its object


_expected = _Expected()
_replacement = _Replacement()


@contextmanager
def writing_in_place(wanted: bool = True) -> Iterator[None]:
    """A context in which calls of `written_into` write into their memory.

    Parameters
    ----------
    wanted
        Whether there are such calls.  If not, nothing is done: the replacement of ``aten::empty``
        affects the whole process.
    """
    if not (wanted and _works()):
        yield
        return
    _replacement.begin()
    try:
        yield
    finally:
        _replacement.end()


@cache
def _works() -> bool:
    """Whether a convolution writes into the memory that the replacement returns."""
    x, weight = torch.ones(1, 1, 2, 2, device="cpu"), torch.ones(1, 1, 1, 1, device="cpu")
    if not fuses(weight):
        return False
    convolution = FusedConvolution("conv2d", (1, 1), (0, 0), (1, 1))
    call = convolution.bind(convolution.reorder(weight, x.shape), None)
    memory = torch.zeros(1, 1, 2, 2, device="cpu")
    try:
        _replacement.begin()
        try:
            result = _call_into(call, memory, (x,))
        finally:
            _replacement.end()
    except (AttributeError, RuntimeError, TypeError):
        return False
    return result.data_ptr() == memory.data_ptr() and torch.equal(memory, x)


def written_into(
    call: Callable[..., torch.Tensor], memory: torch.Tensor
) -> Callable[..., torch.Tensor]:
    """A call that writes its result into a given tensor, or copies it there if that fails.

    Parameters
    ----------
    call
        Computes a tensor of the shape and type of ``memory``.
    memory
        The tensor for the result.

    Examples
    --------
    >>> memory = torch.zeros(3)
    >>> written_into(torch.neg, memory)(torch.ones(3)) is memory
    True
    """
    order = _order(memory)

    def into_memory(*operands: torch.Tensor) -> torch.Tensor:
        result = _call_into(call, memory, operands)
        if result.data_ptr() != memory.data_ptr():
            memory.copy_(result)
        elif _order(result) != order:  # written there, but in another memory order
            memory.copy_(result.clone())
        return memory

    return into_memory


def _call_into(
    call: Callable[..., torch.Tensor], memory: torch.Tensor, operands: Sequence[torch.Tensor]
) -> torch.Tensor:
    """The result of a call; its first empty tensor gets the given memory."""
    _expected.result = memory
    try:
        return call(*operands)
    finally:
        _expected.result = None


def _order(tensor: torch.Tensor) -> list[int]:
    """Strides of the dimensions that have more than one position."""
    return [step for n, step in zip(tensor.shape, tensor.stride(), strict=True) if n > 1]


def _empty(
    size: Sequence[int],
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
    memory_format: torch.memory_format | None = None,
) -> torch.Tensor:
    """Like `torch.empty`; but the expected result, of size 0, gets the memory meant for it."""
    memory = _expected.result
    if memory is not None and tuple(size) == (0,) and dtype == memory.dtype:
        _expected.result = None
        return memory.as_strided((0,), (1,))
    return torch.empty_strided(
        size,
        _strides(size, memory_format),
        dtype=dtype,
        layout=layout,
        device=device,
        pin_memory=pin_memory,
    )


def _strides(size: Sequence[int], memory_format: torch.memory_format | None) -> list[int]:
    """Strides of a new tensor of a size in a memory format."""
    order, least = list(range(len(size))), 1
    if memory_format in (torch.channels_last, torch.channels_last_3d):
        order, least = [0, *order[2:], 1], 0
    strides, step = [0] * len(size), 1
    for number in reversed(order):
        strides[number] = step
        step *= max(least, size[number])
    return strides
