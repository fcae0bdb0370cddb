"""Where values of training wait that are not needed for a while: in memory, or on disk."""

from __future__ import annotations

import math
import os
import tempfile
import weakref
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

SMALLEST = 1 << 16
"""Bytes of the smallest tensor that is written; a smaller one takes longer than it saves."""


class Store(Protocol):
    """Keeps tensors; what it gives for a tensor is kept as long as it is referred to.

    Attributes
    ----------
    frees_memory
        Whether a tensor that it keeps takes no memory.
    """

    frees_memory: bool

    def put(self, tensor: Any) -> Any:
        """Keep a tensor; return what stands for it."""

    def take(self, kept: Any) -> Any:
        """Return the tensor for which this stands."""


class InMemory:
    """Keeps tensors where they are."""

    frees_memory = False

    def put(self, tensor: Any) -> Any:
        return tensor

    def take(self, kept: Any) -> Any:
        return kept


@dataclass(frozen=True, eq=False)
class OnDisk:
    """A tensor in a file; its part of the file is free again when this object is gone.

    Attributes
    ----------
    offset, size
        Its bytes in the file.
    shape, stride, dtype, device
        Those of the tensor.
    """

    offset: int
    size: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


class DiskStore:
    """Keeps large tensors in a file without a name, which ends with the process.

    Each tensor is written once, however often it is put away.  The file is in the folder of
    temporary files (``TMPDIR``).

    Attributes
    ----------
    size
        Bytes of the file.
    """

    frees_memory = True

    def __init__(self) -> None:
        self.size = 0
        self._file = tempfile.TemporaryFile(prefix="spnb-")  # noqa: SIM115 (closed with the store)
        self._free: dict[int, list[int]] = defaultdict(list)  # offsets by size
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
        memory = np.empty(kept.size, dtype=np.uint8)
        done = 0
        while done < kept.size:
            found = os.preadv(self._file.fileno(), [memory[done:].data], kept.offset + done)
            if not found:
                raise OSError("the file of values that wait on disk has become shorter")
            done += found
        tensor = torch.from_numpy(memory).view(kept.dtype).as_strided(kept.shape, kept.stride)
        tensor = tensor.to(kept.device)
        self._remember(tensor, kept)
        return tensor

    def _remember(self, tensor: torch.Tensor, kept: OnDisk) -> OnDisk:
        key = id(tensor)
        alive = weakref.ref(tensor, lambda _: self._known.pop(key, None))
        self._known[key] = alive, kept
        return kept

    def _write(self, tensor: torch.Tensor) -> OnDisk:
        dense = _dense(tensor.cpu().resolve_conj().resolve_neg())
        memory = dense.as_strided((dense.numel(),), (1,)).view(torch.uint8).numpy()
        offset, done = self._place(dense.nbytes), 0
        try:
            while done < dense.nbytes:
                done += os.pwrite(self._file.fileno(), memory[done:].data, offset + done)
        except OSError as error:
            raise RuntimeError(
                f"{error.strerror}: values of patches wait in {tempfile.gettempdir()}, which took"
                f" {self.size / 2**30:.3g} GiB; set TMPDIR to a folder with more room, or use"
                " more ranks"
            ) from error
        kept = OnDisk(
            offset, dense.nbytes, tuple(dense.shape), dense.stride(), dense.dtype, tensor.device
        )
        weakref.finalize(kept, self._free[dense.nbytes].append, offset)
        return kept

    def _place(self, size: int) -> int:
        """A free part of the file; the file grows if it has none of this size."""
        if self._free[size]:
            return self._free[size].pop()
        self.size += size
        return self.size - size


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
