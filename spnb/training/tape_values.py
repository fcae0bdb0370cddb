"""The values that a tape holds for one micro-batch, and their gradients."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from ..ir.axes import Axes
from ..ir.region import Region
from ..runtime.halo_tile import cut

Gradient = list[torch.Tensor | None]
"""The sum of the gradients of a value so far: one tensor for each element of the value."""


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
        self._shapes: dict[str, list[tuple[int, ...]]] = {}

    def hold(self, value: str, region: Region, tensor: Any) -> None:
        """Hold a value, or a tuple of them, over a region."""
        self._tensors[value] = tensor
        self.expect(value, region, [tuple(part.shape) for part in parts_of(tensor)])

    def expect(self, value: str, region: Region, shapes: list[tuple[int, ...]]) -> None:
        """Prepare the sum of a value's gradients over a region; its elements have these shapes."""
        self.regions[value], self._shapes[value] = region, shapes

    def get(self, value: str) -> Any:
        """A value, over its whole region; ``None`` if it is not held."""
        return self._tensors.get(value)

    def piece(self, value: str, region: Region, axes: Axes) -> Any:
        """A region of a value."""
        return cut(self._tensors[value], self.regions[value], region, axes)

    def free(self, values: Iterable[str]) -> None:
        """Free the memory of values; their regions and shapes are still known."""
        for value in values:
            self._tensors.pop(value, None)

    def free_all(self) -> None:
        """Free the memory of all values."""
        self._tensors.clear()

    def add_gradient(
        self, value: str, axes: Axes, region: Region, parts: Sequence[torch.Tensor | None]
    ) -> None:
        """Add a gradient over a region to a value's, if the value is expected to have one."""
        if all(part is None for part in parts) or value not in self._shapes:
            return
        held = self.regions[value]
        summed = self.gradients.setdefault(value, [None] * len(parts))
        for k, part in enumerate(parts):
            if part is None:
                continue
            whole = summed[k]
            if whole is None:
                whole = summed[k] = torch.zeros(self._shapes[value][k], dtype=part.dtype)
            axes.put(whole, held, region, axes.piece(whole, held, region) + part)
