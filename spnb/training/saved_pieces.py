"""What autograd saves of a call: a piece of a value is saved as a reference, not as a tensor.

An operator that computes its derivative from its result, as ReLU does, saves the tile.  The next
convolution saves the tile with its halo, which is another tensor.  With references, the value is in
memory once: when its halo has arrived, the references show the tile inside the larger tensor::

    relu saves     │  tile  │           ──►     ░│  tile  │░   ◄── relu's reference
    conv saves    ░│  tile  │░                  ░│  tile  │░   ◄── conv's reference
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks

from ..ir.axes import Axes
from ..ir.region import Region
from ..runtime.halo_tile import cut


@dataclass(slots=True)
class Memory:
    """The tensor of a value, and the region that it covers; a later tensor may replace it."""

    tensor: torch.Tensor
    region: Region

    def replace(self, tensor: torch.Tensor, region: Region) -> None:
        """Use a tensor that covers more; one that covers less changes nothing."""
        if self.region in region:
            self.tensor, self.region = tensor, region


@dataclass(frozen=True, slots=True)
class PieceOfValue:
    """A piece of a value that an operator may save.

    Attributes
    ----------
    memory
        The value.
    region, axes
        The region of the piece, and where the axes of the image lie in the value.
    """

    memory: Memory
    region: Region
    axes: Axes

    @property
    def tensor(self) -> torch.Tensor:
        """The piece, in the memory that the value has now."""
        return cut(self.memory.tensor, self.memory.region, self.region, self.axes)


@dataclass(slots=True)
class _Saved:
    """What autograd saves: a tensor, or a piece of a value."""

    content: torch.Tensor | PieceOfValue


class SavedPieces:
    """What autograd saves of one call.

    Parameters
    ----------
    operands
        The pieces that the call reads.
    """

    def __init__(self, operands: Sequence[PieceOfValue]):
        self._operands = [(piece, _place(piece.tensor)) for piece in operands]
        self._others: list[_Saved] = []  # tensors that are no operands

    @contextmanager
    def saving(self) -> Iterator[None]:
        """The context in which the operator is called."""
        with saved_tensors_hooks(self._pack, _unpack):
            yield
        self._operands.clear()  # autograd keeps this object, as that of its hook

    def _pack(self, tensor: torch.Tensor) -> _Saved:
        place = _place(tensor)
        for piece, known in self._operands:
            if place == known:
                return _Saved(piece)
        saved = _Saved(tensor.detach())  # `RecordedCall` takes the values from an operand itself
        self._others.append(saved)
        return saved

    def refer_to(self, result: PieceOfValue | None) -> None:
        """Refer to the result of the call, where autograd saved it."""
        place = None if result is None else _place(result.tensor)
        for saved in self._others:
            if result is not None and _place(saved.content) == place:
                saved.content = result
        self._others.clear()


def _unpack(saved: _Saved) -> torch.Tensor:
    return saved.content if isinstance(saved.content, torch.Tensor) else saved.content.tensor


def _place(tensor: torch.Tensor | PieceOfValue) -> tuple[Any, ...]:
    """Where a tensor lies in memory, and how."""
    tensor = tensor if isinstance(tensor, torch.Tensor) else tensor.tensor
    return tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()
