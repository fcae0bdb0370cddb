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

from ..ir.axes import Axes, is_image
from ..ir.node import Node, map_leaves
from ..ir.region import Region
from ..transport import Arrival

Take = Callable[[Any], Any]
"""Gives the part of a value that covers a region."""


@dataclass(frozen=True)
class HaloTile:
    """The regions in which the pieces of a value come.

    Parameters
    ----------
    region
        What is needed of it.
    own
        What is computed here; empty if nothing is.
    halo
        What others send; what is in no piece is zeros.
    axes, dtype
        Where the axes of the image lie in the value, and its type.
    kind
        What the exchange is for.
    """

    region: Region
    own: Region
    halo: tuple[Region, ...]
    axes: Axes
    dtype: torch.dtype
    kind: str

    def assembly(self, region: Region) -> Callable[[Sequence[torch.Tensor | None]], torch.Tensor]:
        """How a region is put together from the pieces, this rank's own first."""
        axes, dtype = self.axes, self.dtype
        held = (self.own, *self.halo)
        shared = [(number, piece & region) for number, piece in enumerate(held)]
        for number, met in shared:
            if met == region and number:
                take = taker(axes, held[number], region)
                return lambda pieces: take(pieces[number])
        moves = [
            (number, taker(axes, held[number], met), putter(axes, region, met))
            for number, met in shared
            if not met.empty
        ]
        full = sum(met.size for _, met in shared) == region.size  # pieces do not overlap

        def assemble(pieces: Sequence[torch.Tensor | None]) -> torch.Tensor:
            found = room(axes, region, dtype)
            if not full:  # nothing comes: see spnb.ir.program.without_exchange
                found.zero_()
            for number, take, put in moves:
                put(found, take(pieces[number]))
            return found

        return assemble

    def message(self, region: Region) -> tuple[torch.Tensor, torch.Tensor]:
        """Memory for a piece on its way: as it travels, in one run, and as a piece of the value."""
        return message(self.axes, region, self.dtype)


@dataclass(frozen=True)
class FramedHaloTile(HaloTile):
    """A value that lies between the rows of its halo from the start.

    Parameters
    ----------
    whole
        The memory of all of it, into which what is computed here and what arrives is written.
    """

    whole: torch.Tensor

    def assembly(self, region: Region) -> Callable[[Sequence[torch.Tensor | None]], torch.Tensor]:
        found = self.axes.piece(self.whole, self.region, region)
        return lambda pieces: found

    def message(self, region: Region) -> tuple[torch.Tensor, torch.Tensor]:
        piece = self.axes.piece(self.whole, self.region, region)
        return piece.movedim(1, -1), piece


@dataclass(slots=True)
class Pieces:
    """The pieces of a value, this rank's own first, of which some are on their way."""

    tensors: list[torch.Tensor | None]
    arrivals: list[Arrival] = field(default_factory=list)


def taker(axes: Axes, held: Region, region: Region) -> Take:
    """What gives the part of a value over ``held`` that covers a region."""
    if held == region:
        return lambda value: value
    if axes.plain:
        index = axes.within(held, region)
        take = lambda tensor: tensor[index]  # noqa: E731
    else:
        take = lambda tensor: axes.piece(tensor, held, region)  # noqa: E731

    def of_each(value: Any) -> Any:
        if isinstance(value, (tuple, list)):
            return type(value)(map(take, value))
        return take(value)

    return of_each


def putter(axes: Axes, held: Region, region: Region) -> Callable[[torch.Tensor, Any], None]:
    """What writes the piece that covers a region into a tensor over ``held``."""
    if not axes.plain:
        return lambda target, piece: axes.put(target, held, region, piece)
    index = axes.within(held, region)

    def put(target: torch.Tensor, piece: torch.Tensor) -> None:
        target[index].copy_(piece)

    return put


def cut(value: Any, held: Region, region: Region, axes: Axes) -> Any:
    """The part of a value that covers a region; of each part where the value is a tuple."""
    return taker(axes, held, region)(value)


def room(axes: Axes, region: Region, dtype: torch.dtype) -> torch.Tensor:
    """Memory for a piece of a value."""
    return message(axes, region, dtype)[1]


def nothing(node: Node, region: Region) -> Any:
    """What a call gives over a region that has no positions."""
    empty = room(node.axes, region, node.dtype)
    return (empty,) * len(node.parts) if node.parts else empty


def message(axes: Axes, region: Region, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Memory for a piece on its way: as it travels, in one run, and as a piece of the value."""
    shape = axes.local_shape(region)
    if not is_image(axes):
        run = torch.empty(shape, dtype=dtype)
        return run, run
    batch, channels, *space = shape
    run = torch.empty((batch, *space, channels), dtype=dtype)
    return run, run.movedim(-1, 1)


def packed(piece: torch.Tensor, axes: Axes) -> torch.Tensor:
    """A copy of a piece of a value in one run of memory, as it travels.

    The value's own memory may be in other use before the piece is sent.
    """
    ordered = piece.movedim(1, -1) if is_image(axes) else piece
    return ordered.clone(memory_format=torch.contiguous_format)


def channels_last(piece: torch.Tensor, axes: Axes) -> torch.Tensor:
    """A piece of a value, its channels last in memory if it is of an image."""
    return piece.movedim(1, -1).contiguous().movedim(-1, 1) if is_image(axes) else piece


def in_order(value: Any) -> Any:
    """A piece of a value, or each part of it, as PyTorch lays out tensors by default."""
    return map_leaves(torch.Tensor.contiguous, value)
