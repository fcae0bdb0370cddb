"""What autograd saves of a call: a piece of a value is saved as a reference, not as a tensor.

An operator that computes its derivative from its result, as ReLU does, saves the tile.  The next
convolution saves the tile with its halo, which is another tensor.  With references, the value is in
memory once: when its halo has arrived, the references show the tile inside the larger tensor::

    relu saves     │  tile  │           ──►     ░│  tile  │░   ◄── relu's reference
    conv saves    ░│  tile  │░                  ░│  tile  │░   ◄── conv's reference
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks

from ...ir.axes import Axes
from ...ir.region import Region
from ...runtime.halo_tile import cut


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
        held = self.memory.region
        if held is self.region:
            return self.memory.tensor
        return cut(self.memory.tensor, held, self.region, self.axes)


@dataclass(slots=True)
class _Saved:
    """What autograd saves: a tensor, or a piece of a value."""

    content: torch.Tensor | PieceOfValue


class SavedPieces:
    """What autograd saves of one call, which is made in the context of this object.

    Parameters
    ----------
    operands
        The pieces that the call reads, and their tensors; None for what is no piece of a value.
    """

    def __init__(self, operands: Sequence[tuple[PieceOfValue | None, Any]]):
        self._operands = [each for each in operands if each[0] is not None]
        self._others: list[_Saved] = []  # tensors that are no operands

    def __enter__(self) -> SavedPieces:
        self._hooks = saved_tensors_hooks(self._pack, _unpack)
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)
        del self._hooks  # it refers to this object, which then would be freed late
        self._operands.clear()  # autograd keeps this object, as that of its hook

    def _pack(self, tensor: torch.Tensor) -> _Saved:
        for piece, known in self._operands:
            if _same(tensor, known):
                assert piece is not None
                return _Saved(piece)
        saved = _Saved(tensor.detach())  # `RecordedCall` takes the values from an operand itself
        self._others.append(saved)
        return saved

    def refer_to(self, result: PieceOfValue | None) -> None:
        """Refer to the result of the call, where autograd saved it."""
        if result is not None and self._others:
            tensor = result.tensor
            for saved in self._others:
                if isinstance(saved.content, torch.Tensor) and _same(saved.content, tensor):
                    saved.content = result
        self._others.clear()


def _unpack(saved: _Saved) -> torch.Tensor:
    return saved.content if isinstance(saved.content, torch.Tensor) else saved.content.tensor


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors are the same numbers in the same memory."""
    return (
        a.data_ptr() == b.data_ptr()
        and a.dtype == b.dtype
        and a.shape == b.shape
        and a.stride() == b.stride()
        # A conjugate, and its imaginary part, show other numbers of the same memory.
        and a.is_conj() == b.is_conj()
        and a.is_neg() == b.is_neg()
    )
