"""Arenas: runs of memory for results, which are reused when no tensor lies in them any more."""

from __future__ import annotations

import math
import mmap
import weakref
from collections import defaultdict
from collections.abc import Sequence

import torch


class Arena:
    """A run of memory for values; it is freed when no tensor lies in it any more.

    Parameters
    ----------
    size
        Number of bytes.
    memory
        Memory to use; new memory by default.
    """

    def __init__(self, size: int, memory: mmap.mmap | None = None):
        self.memory = memory or mmap.mmap(-1, max(1, size))
        self.view = memoryview(self.memory)  # lives as long as any tensor that lies here
        self._bytes = torch.frombuffer(self.view, dtype=torch.uint8)

    def tensor(self, offset: int, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """A tensor ``(batch, channels, *spatial)`` that begins at a byte, its channels last."""
        batch, channels, *space = shape
        size = math.prod(shape) * dtype.itemsize
        run = self._bytes[offset : offset + size].view(dtype)
        return run.view(batch, *space, channels).movedim(-1, 1)


class ArenaPool:
    """Makes arenas, and reuses their memory once no tensor lies in it any more.

    The system maps new memory page by page when it is first written.  That can take longer than to
    compute the values written there.
    """

    SPARE = 2
    """Number of free runs of memory of each size that are held for reuse; others are freed."""

    def __init__(self) -> None:
        self._spare: dict[int, list[mmap.mmap]] = defaultdict(list)

    def arena(self, size: int) -> Arena:
        """An arena of a size in bytes."""
        spare = self._spare[size]
        arena = Arena(size, spare.pop() if spare else None)
        weakref.finalize(arena.view, _give_back, spare, arena.memory)
        return arena


def _give_back(spare: list[mmap.mmap], memory: mmap.mmap) -> None:
    if len(spare) < ArenaPool.SPARE:
        spare.append(memory)
