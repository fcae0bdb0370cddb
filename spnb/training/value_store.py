"""Where values of training wait that are not needed for a while: in memory, or on disk."""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

SMALLEST = 1 << 16
"""Bytes of the smallest tensor that is written to a file; a file costs more than it saves."""


class Store(Protocol):
    """Keeps tensors; what it gives for a tensor is kept as long as it is referred to."""

    def put(self, tensor: Any) -> Any:
        """Keep a tensor; return what stands for it."""

    def take(self, kept: Any) -> Any:
        """Return the tensor for which this stands."""


class InMemory:
    """Keeps tensors where they are."""

    def put(self, tensor: Any) -> Any:
        return tensor

    def take(self, kept: Any) -> Any:
        return kept


@dataclass(frozen=True, eq=False)
class OnDisk:
    """A tensor in a file, which is deleted with this object.

    Attributes
    ----------
    path
        The file.
    shape, stride, dtype
        Those of the tensor.
    """

    path: Path
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    def __post_init__(self) -> None:
        weakref.finalize(self, self.path.unlink, missing_ok=True)


class DiskStore:
    """Keeps large tensors in files, each written once, however often it is put away.

    Parameters
    ----------
    folder
        An existing folder for the files.

    Attributes
    ----------
    bytes, most_bytes
        Bytes in files now, and the most so far.
    """

    def __init__(self, folder: Path):
        self.folder, self.bytes, self.most_bytes = folder, 0, 0
        self._numbers = itertools.count()
        self._known: dict[int, tuple[Callable[[], Any], OnDisk]] = {}  # by the tensor's identity

    def put(self, tensor: Any) -> Any:
        if not isinstance(tensor, torch.Tensor) or tensor.nbytes < SMALLEST:
            return tensor
        alive, kept = self._known.get(id(tensor), (lambda: None, None))
        if alive() is tensor:
            return kept
        return self._remember(tensor, self._write(tensor))

    def take(self, kept: Any) -> Any:
        if not isinstance(kept, OnDisk):
            return kept
        memory = torch.from_numpy(np.fromfile(kept.path, dtype=np.uint8))
        tensor = memory.view(kept.dtype).as_strided(kept.shape, kept.stride)
        self._remember(tensor, kept)
        return tensor

    def _remember(self, tensor: torch.Tensor, kept: OnDisk) -> OnDisk:
        key = id(tensor)
        alive = weakref.ref(tensor, lambda _: self._known.pop(key, None))
        self._known[key] = alive, kept
        return kept

    def _write(self, tensor: torch.Tensor) -> OnDisk:
        dense = _dense(tensor)
        path = self.folder / f"{next(self._numbers)}.tensor"
        memory = dense.as_strided((dense.numel(),), (1,)).view(torch.uint8)
        memory.numpy().tofile(path)
        kept = OnDisk(path, tuple(dense.shape), dense.stride(), dense.dtype)
        self.bytes += dense.nbytes
        self.most_bytes = max(self.bytes, self.most_bytes)
        weakref.finalize(kept, self._deleted, dense.nbytes)
        return kept

    def _deleted(self, size: int) -> None:
        self.bytes -= size


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in memory without gaps, in the same order of axes if that has none."""
    order = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)
    expected = 1
    for k in reversed(order):
        if tensor.shape[k] > 1 and tensor.stride(k) != expected:
            dense = torch.empty_like(tensor, memory_format=torch.preserve_format)
            return dense.copy_(tensor) if _has_no_gaps(dense) else tensor.contiguous()
        expected *= tensor.shape[k]
    return tensor.detach()


def _has_no_gaps(tensor: torch.Tensor) -> bool:
    """Whether a tensor fills the memory from its first number to its last."""
    last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return last + 1 == math.prod(tensor.shape)
