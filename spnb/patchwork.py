"""A tile and its halo, in the pieces in which they come.

A halo is a few rows around a tile of millions of positions.  To put both into one tensor would move
the tile for their sake; so they stay apart as long as nobody asks for a region that reaches over::

    ┌─────────────── from above ───────────────┐
    ├──────────────────────────────────────────┤
    │        computed here: never moved        │       a convolution computes all of its result
    │                                          │       from this alone, and then, once they are
    ├──────────────────────────────────────────┤       here, the rows that read what others sent
    └─────────────── from below ───────────────┘

Images lie in memory with their channels last, position by position: convolutions on CPUs like it
best, and a halo's rows are runs of memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from .axes import Axes
from .region import Region

NOTHING = Region(((0, 0),))


@dataclass(eq=False)
class Patchwork:
    """A value whose halo is on its way.

    Parameters
    ----------
    region
        What is needed of it.
    tensor, own
        What was computed here, and its region; ``None`` if nothing was.
    axes, dtype
        Where the axes of the image lie in it, and its type.
    kind
        What the exchange is for.
    halo
        The region of each piece that others send, and where it arrives; the rest is zeros.
    arrive
        Waits until all have arrived.
    """

    region: Region
    tensor: torch.Tensor | None
    own: Region
    axes: Axes
    dtype: torch.dtype
    kind: str
    halo: Sequence[tuple[Region, torch.Tensor]]
    arrive: Callable[[], None]
    _whole: torch.Tensor | None = field(default=None, init=False)

    def has(self, region: Region) -> bool:
        """Whether a region is at hand, in one piece."""
        return self._whole is not None or region in self.own  # as an empty one is

    def piece(self, region: Region) -> torch.Tensor:
        """The piece that covers a region: a view where it was computed here, else assembled."""
        if self._whole is not None:
            return self.axes.piece(self._whole, self.region, region)
        if region.empty:
            return room(self.axes, region, self.dtype)
        if region in self.own:
            return cut(self.tensor, self.own, region, self.axes)
        self.arrive()
        for held, tensor in self.halo:
            if region in held:
                return self.axes.piece(tensor, held, region)
        found = room(self.axes, region, self.dtype)
        if not self.halo:  # nothing comes: see spnb.program.without_exchange
            found.zero_()
        for held, tensor in ((self.own, self.tensor), *self.halo):
            shared = held & region
            if not shared.empty:
                self.axes.put(found, region, shared, self.axes.piece(tensor, held, shared))
        if region == self.region:
            self._whole = found
        return found


def cut(value: Any, held: Region, region: Region, axes: Axes) -> Any:
    """The part of a value that covers a region; of each part where the value is a tuple."""
    if isinstance(value, Patchwork):
        return value.piece(region)
    if held == region:
        return value
    if isinstance(value, (tuple, list)):
        return type(value)(axes.piece(part, held, region) for part in value)
    return axes.piece(value, held, region)


def room(axes: Axes, region: Region, dtype: torch.dtype) -> torch.Tensor:
    """Memory for a piece of a value."""
    return message(axes, region, dtype)[1]


def message(axes: Axes, region: Region, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Memory for a piece on its way: as it travels, in one run, and as a piece of the value."""
    shape = axes.local_shape(region)
    if not _is_image(axes):
        run = torch.empty(shape, dtype=dtype)
        return run, run
    batch, channels, *space = shape
    run = torch.empty((batch, *space, channels), dtype=dtype)
    return run, run.movedim(-1, 1)


def packed(piece: torch.Tensor, axes: Axes) -> torch.Tensor:
    """A piece of a value in one run of memory, as it travels."""
    return (piece.movedim(1, -1) if _is_image(axes) else piece).contiguous()


def channels_last(piece: torch.Tensor, axes: Axes) -> torch.Tensor:
    """A piece of a value, its channels last in memory if it is of an image."""
    return packed(piece, axes).movedim(-1, 1) if _is_image(axes) else piece


def in_order(value: Any) -> Any:
    """A piece of a value, or each part of it, as PyTorch lays out tensors by default."""
    if isinstance(value, (tuple, list)):
        return type(value)(map(in_order, value))
    return value.contiguous()


def _is_image(axes: Axes) -> bool:
    return len(axes.dims) in (4, 5) and axes.plain
