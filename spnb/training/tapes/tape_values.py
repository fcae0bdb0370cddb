"""The values that a tape holds for one micro-batch, and their gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ...ir.axes import Axes
from ...ir.node import map_leaves
from ...ir.region import Region
from ...runtime.halo_tile import Take, fill_zeros, room, taker
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


class PieceReader:
    """Reads a region of a value; how to cut it is found out once for each region that is held.

    Parameters
    ----------
    value, region, axes
        Name of the value, the region, and where the axes of the image lie in the value.
    """

    def __init__(self, value: str, region: Region, axes: Axes):
        self.value, self.region, self.axes = value, region, axes
        self._plain = axes.plain and not region.empty
        self._held: Region | None = None
        self._take: Take = lambda value: value

    def read(self, values: TapedValues) -> Any:
        """The piece; a tuple of pieces if the value is one."""
        held = values.covered[self.value]
        if held is not self._held:
            self._held, self._take = held, taker(self.axes, held, self.region)
        return self._take(values.tensors[self.value])

    def saved(self, values: TapedValues) -> PieceOfValue | None:
        """The piece as autograd may save it; None if it would be another tensor."""
        memory = values.memory_of(self.value) if self._plain else None
        if memory is None:
            return None
        if memory.region is not self.region and self.region not in memory.region:
            return None
        return PieceOfValue(memory, self.region, self.axes)


class TapedValues:
    """Values over the regions that this rank has, and their gradients.

    Attributes
    ----------
    regions
        The region over which each value is held.
    gradients
        For each value, the sum of its gradients so far in the backward pass.
    tensors, covered
        The tensor of each value that is held, or a tuple of tensors, and the region that it covers:
        a larger one than the value's where there is padding around it.
    """

    def __init__(self) -> None:
        self.regions: dict[str, Region] = {}
        self.gradients: dict[str, Gradient] = {}
        self.tensors: dict[str, Any] = {}
        self.covered: dict[str, Region] = {}
        self._memory: dict[str, Memory] = {}  # of values that autograd may have saved
        self._own: set[tuple[str, int]] = set()  # gradients in memory of their own
        self._shapes: dict[str, list[tuple[int, ...]]] = {}

    def hold(self, value: str, region: Region, tensor: Any) -> None:
        """Hold a value, or a tuple of them, over a region."""
        self.cover(value, region, tensor)
        self.expect(value, region, [tuple(part.shape) for part in parts_of(tensor)])

    def cover(self, value: str, region: Region, tensor: Any) -> None:
        """Hold a value in memory that covers a region, which may have padding around the value."""
        self.tensors[value], self.covered[value] = tensor, region
        if value in self._memory:
            self._memory[value].replace(tensor, region)

    def cover_padding(self, value: str, padded: Region, axes: Axes) -> None:
        """Hold a value in memory that covers a region past the extent too, where there are zeros.

        An operator that saves the value with its padding, and one that saves the value, then save
        the same memory.

        Parameters
        ----------
        value
            Name of the value.
        padded
            The region.
        axes
            Where the axes of the image lie in the value.
        """
        covered, held = self.covered[value], self.regions[value]
        if padded in covered:
            return
        whole = covered | padded
        tensor = room(axes, whole, self.tensors[value].dtype, CHANNELS_LAST)
        for border in whole.around(held):
            fill_zeros(axes, tensor, whole, border)
        axes.put(tensor, whole, held, axes.piece(self.tensors[value], covered, held))
        self.cover(value, whole, tensor)

    def expect(self, value: str, region: Region, shapes: list[tuple[int, ...]]) -> None:
        """Prepare the sum of a value's gradients over a region; its elements have these shapes."""
        self.regions[value], self._shapes[value] = region, shapes

    def memory_of(self, value: str) -> Memory | None:
        """The memory of a value that autograd may save; None for a tuple."""
        found = self._memory.get(value)
        if found is None:
            tensor = self.tensors[value]
            if not isinstance(tensor, torch.Tensor):
                return None
            found = self._memory[value] = Memory(tensor, self.covered[value])
        return found

    def free(self, values: Iterable[str]) -> None:
        """Free the memory of values, unless autograd saved them; regions are still known."""
        for value in values:
            self.tensors.pop(value, None)
            self._memory.pop(value, None)

    def free_all(self) -> None:
        """Free the memory of all values, unless autograd saved them."""
        self.tensors.clear()
        self._memory.clear()

    def held(self, store: Store) -> HeldValues:
        """All values that are held now, in a store."""
        tensors = _each(store.put, self.tensors)
        return HeldValues(tensors, dict(self.covered), dict(self.regions))

    @contextmanager
    def held_again(self, held: HeldValues, store: Store) -> Iterator[None]:
        """A context with the values that were held once, and no others.

        The gradients that are there belong to the regions of now, so these come back at its end.
        """
        self.free_all()
        regions, shapes = self.regions, dict(self._shapes)
        self.tensors, self.covered = _each(store.take, held.tensors), dict(held.covered)
        self.regions = dict(held.regions)
        yield
        self.free_all()
        self.regions, self._shapes = regions, shapes

    def put_away(self, store: Store) -> None:
        """Put all values, and the gradients, into a store; only `take_back` may follow."""
        self.tensors = _each(store.put, self.tensors)
        self.gradients = _each(store.put, self.gradients)

    def take_back(self, store: Store) -> None:
        """Take all values, and the gradients, back from the store."""
        self.tensors = _each(store.take, self.tensors)
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
