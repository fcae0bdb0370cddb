"""The values that a tape holds for one micro-batch, and their gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ..ir.axes import Axes
from ..ir.node import map_leaves
from ..ir.region import Region
from ..runtime.halo_tile import cut, fill_zeros, room
from .saved_pieces import Memory, PieceOfValue
from .value_store import Store

Gradient = list[torch.Tensor | None]
"""The sum of the gradients of a value so far: one tensor for each element of the value."""


@dataclass(frozen=True)
class HeldValues:
    """Values in a store, the regions that their tensors cover, and all values' regions then."""

    tensors: Mapping[str, Any]
    covered: Mapping[str, Region]
    regions: Mapping[str, Region]


CHANNELS_LAST = False
"""How images are stored in training; see `spnb.runtime.halo_tile`."""


def _each(function: Callable[[Any], Any], values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: map_leaves(function, value) for name, value in values.items()}


def parts_of(value: Any) -> list[torch.Tensor]:
    """The tensors of a value: the elements of a tuple, or the value itself."""
    return list(value) if isinstance(value, (tuple, list)) else [value]


class TapedValues:
    """Values over the regions that this rank has, and their gradients.

    Attributes
    ----------
    regions
        The region over which each value is held.
    gradients
        For each value, the sum of its gradients so far in the backward pass.
    """

    def __init__(self) -> None:
        self.regions: dict[str, Region] = {}
        self.gradients: dict[str, Gradient] = {}
        self._tensors: dict[str, Any] = {}
        self._covered: dict[str, Region] = {}  # by the tensors; of one with padding it is larger
        self._memory: dict[str, Memory] = {}  # of values that autograd may have saved
        self._own: set[tuple[str, int]] = set()  # gradients in memory of their own
        self._shapes: dict[str, list[tuple[int, ...]]] = {}

    def hold(self, value: str, region: Region, tensor: Any) -> None:
        """Hold a value, or a tuple of them, over a region."""
        self.cover(value, region, tensor)
        self.expect(value, region, [tuple(part.shape) for part in parts_of(tensor)])

    def cover(self, value: str, region: Region, tensor: Any) -> None:
        """Hold a value in memory that covers a region, which may have padding around the value."""
        self._tensors[value], self._covered[value] = tensor, region
        if value in self._memory:
            self._memory[value].replace(tensor, region)

    def with_padding(self, value: str, padded: Region, axes: Axes) -> torch.Tensor:
        """A region of a value that runs past the extent, where there are zeros.

        From now on the value is held in memory that covers this region: an operator that saves it
        and one that saves the value save the same memory.

        Parameters
        ----------
        value
            Name of the value.
        padded
            The region.
        axes
            Where the axes of the image lie in the value.
        """
        covered, held = self._covered[value], self.regions[value]
        if padded not in covered:
            whole = covered | padded
            tensor = room(axes, whole, self._tensors[value].dtype, CHANNELS_LAST)
            for border in whole.around(held):
                fill_zeros(axes, tensor, whole, border)
            axes.put(tensor, whole, held, axes.piece(self._tensors[value], covered, held))
            self.cover(value, whole, tensor)
        return axes.piece(self._tensors[value], self._covered[value], padded)

    def expect(self, value: str, region: Region, shapes: list[tuple[int, ...]]) -> None:
        """Prepare the sum of a value's gradients over a region; its elements have these shapes."""
        self.regions[value], self._shapes[value] = region, shapes

    def own(self, value: str, region: Region, axes: Axes) -> Any:
        """The region of a value that the rank has of its own; ``None`` if it is not held."""
        return self.piece(value, region, axes) if value in self._tensors else None

    def piece(self, value: str, region: Region, axes: Axes) -> Any:
        """A region of a value."""
        return cut(self._tensors[value], self._covered[value], region, axes)

    def saved(self, value: str, region: Region, axes: Axes) -> PieceOfValue | None:
        """A region of a value as autograd may save it; None if it would be another tensor."""
        tensor = self._tensors[value]
        if not isinstance(tensor, torch.Tensor) or not axes.plain or region.empty:
            return None
        memory = self._memory.setdefault(value, Memory(tensor, self._covered[value]))
        return PieceOfValue(memory, region, axes) if region in memory.region else None

    def free(self, values: Iterable[str]) -> None:
        """Free the memory of values, unless autograd saved them; regions are still known."""
        for value in values:
            self._tensors.pop(value, None)
            self._memory.pop(value, None)

    def free_all(self) -> None:
        """Free the memory of all values, unless autograd saved them."""
        self._tensors.clear()
        self._memory.clear()

    def held(self, store: Store) -> HeldValues:
        """All values that are held now, in a store."""
        tensors = _each(store.put, self._tensors)
        return HeldValues(tensors, dict(self._covered), dict(self.regions))

    @contextmanager
    def held_again(self, held: HeldValues, store: Store) -> Iterator[None]:
        """A context with the values that were held once, and no others.

        The gradients that are there belong to the regions of now, so these come back at its end.
        """
        self.free_all()
        regions, shapes = self.regions, dict(self._shapes)
        self._tensors, self._covered = _each(store.take, held.tensors), dict(held.covered)
        self.regions = dict(held.regions)
        yield
        self.free_all()
        self.regions, self._shapes = regions, shapes

    def put_away(self, store: Store) -> None:
        """Put all values, and the gradients, into a store; only `take_back` may follow."""
        self._tensors = _each(store.put, self._tensors)
        self.gradients = _each(store.put, self.gradients)

    def take_back(self, store: Store) -> None:
        """Take all values, and the gradients, back from the store."""
        self._tensors = _each(store.take, self._tensors)
        self.gradients = _each(store.take, self.gradients)

    def add_gradient(
        self,
        value: str,
        axes: Axes,
        region: Region,
        parts: Sequence[torch.Tensor | None],
        new_memory: bool = False,
    ) -> None:
        """Add a gradient over a region to a value's, if the value is expected to have one.

        Parameters
        ----------
        value, axes, region
            The value, where the axes of the image lie in it, and the region.
        parts
            The gradient of each of its elements.
        new_memory
            Whether nothing else refers to the memory of ``parts``.
        """
        if all(part is None for part in parts) or value not in self._shapes:
            return
        held = self.regions[value]
        summed = self.gradients.setdefault(value, [None] * len(parts))
        for k, part in enumerate(parts):
            if part is None:
                continue
            whole, mine = summed[k], (value, k)
            if whole is None:
                self._own.discard(mine)
            if region == held and whole is None:
                summed[k] = part  # autograd may give it to other operands too
                if new_memory:
                    self._own.add(mine)
                continue
            if whole is None:
                whole = torch.empty(self._shapes[value][k], dtype=part.dtype)
                for border in held.around(region):
                    fill_zeros(axes, whole, held, border)
                axes.put(whole, held, region, part)
            elif mine not in self._own and region == held:
                whole = part.add_(whole) if new_memory else whole + part
            else:
                whole = whole if mine in self._own else whole.clone()
                _add(axes, whole, held, region, part)
            self._own.add(mine)
            summed[k] = whole


def _add(axes: Axes, whole: torch.Tensor, held: Region, region: Region, part: torch.Tensor) -> None:
    """Add a gradient over a region to that over ``held``."""
    if axes.plain:
        whole[axes.within(held, region)].add_(part)
    else:
        axes.put(whole, held, region, axes.piece(whole, held, region) + part)
