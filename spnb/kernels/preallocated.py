"""Results of convolutions, written where a plan of buffers says.

PyTorch's convolutions take no place for their result: they make an empty tensor, which they then
size.  While a run lasts, that empty tensor is one whose memory is in place already; its size is
what oneDNN makes of it.  What finds no place ready is made as always.
"""

from __future__ import annotations

import math
import mmap
import threading
import warnings
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch


class Arena:
    """A run of memory that values lie in; it goes back to the system with the last of them.

    Parameters
    ----------
    size
        In bytes.
    memory
        To use in place of new memory.
    """

    def __init__(self, size: int, memory: mmap.mmap | None = None):
        self.memory = memory or mmap.mmap(-1, max(1, size))
        self.held = memoryview(self.memory)  # by each tensor that lies here
        self._bytes = torch.frombuffer(self.held, dtype=torch.uint8)

    def tensor(self, offset: int, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """A tensor ``(batch, channels, *spatial)`` that begins at a byte, its channels last."""
        batch, channels, *space = shape
        size = math.prod(shape) * dtype.itemsize
        run = self._bytes[offset : offset + size].view(dtype)
        return run.view(batch, *space, channels).movedim(-1, 1)


class Pool:
    """Arenas whose memory is used again, when nobody holds what lay there.

    New memory is paged in as it is written, which can take longer than to compute what is written.
    """

    SPARE = 2  # of each size that are kept for later

    def __init__(self):
        self._spare: dict[int, list[mmap.mmap]] = defaultdict(list)

    def arena(self, size: int) -> Arena:
        """An arena of a size in bytes."""
        spare = self._spare[size]
        arena = Arena(size, spare.pop() if spare else None)
        weakref.finalize(arena.held, _give_back, spare, arena.memory)
        return arena


def _give_back(spare: list[mmap.mmap], memory: mmap.mmap) -> None:
    if len(spare) < Pool.SPARE:
        spare.append(memory)


_ready = threading.local()
_lock = threading.Lock()
_runs = 0
_library: Any = None


@contextmanager
def placing() -> Iterator[None]:
    """Let `placed` calls write where they shall, as long as this lasts."""
    global _runs, _library
    with _lock:
        _runs += 1
        if _runs == 1:
            _library = torch.library.Library("aten", "IMPL")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that an operator is overridden is what is meant
                _library.impl("empty.memory_format", _empty, "CPU")
    try:
        yield
    finally:
        with _lock:
            _runs -= 1
            if _runs == 0:
                _library._destroy()
                _library = None


def placed(call: Callable[..., torch.Tensor], spot: torch.Tensor) -> Callable[..., torch.Tensor]:
    """A call whose result lies in a spot: written there, or copied where that did not work."""

    order = _order(spot)

    def into_spot(*operands: torch.Tensor) -> torch.Tensor:
        _ready.spot = spot
        try:
            result = call(*operands)
        finally:
            _ready.spot = None
        if result.data_ptr() != spot.data_ptr():
            spot.copy_(result)
        elif _order(result) != order:  # it is there, but differently
            spot.copy_(result.clone())
        return spot

    return into_spot


def _order(tensor: torch.Tensor) -> list[int]:
    """How a tensor lies in memory."""
    return [step for n, step in zip(tensor.shape, tensor.stride(), strict=True) if n > 1]


def _empty(
    size: Sequence[int],
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
    memory_format: torch.memory_format | None = None,
) -> torch.Tensor:
    """What `torch.empty` does; but the next empty tensor has its memory already."""
    spot = getattr(_ready, "spot", None)
    if spot is not None and tuple(size) == (0,) and dtype == spot.dtype:
        _ready.spot = None
        return spot.as_strided((0,), (1,))
    return torch.empty_strided(
        size,
        _strides(size, memory_format),
        dtype=dtype,
        layout=layout,
        device=device,
        pin_memory=pin_memory,
    )


def _strides(size: Sequence[int], memory_format: torch.memory_format | None) -> list[int]:
    """Of a tensor of a size in a format."""
    order, least = list(range(len(size))), 1
    if memory_format in (torch.channels_last, torch.channels_last_3d):
        order, least = [0, *order[2:], 1], 0
    strides, step = [0] * len(size), 1
    for number in reversed(order):
        strides[number] = step
        step *= max(least, size[number])
    return strides
