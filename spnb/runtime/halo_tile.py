"""A tile and its halo: the pieces of a value that a rank holds.

A halo is a few rows around a tile of millions of positions.  To join both in one tensor would copy
the whole tile, so they stay in separate tensors until an operator needs them in one::

    ┌─────────────── from above ───────────────┐
    ├──────────────────────────────────────────┤
    │      computed here, never copied         │       a convolution first computes its result
    │                                          │       from this piece, and computes the rows at
    ├──────────────────────────────────────────┤       the border again once the halo is here
    └─────────────── from below ───────────────┘

In inference, images are stored with channels last, position by position: convolutions on CPUs are
fastest in this order, and the rows of a halo are runs of memory.  In training they are stored in
PyTorch's default order: the gradient of a convolution's weights takes up to three times as long
with channels last (measured with PyTorch 2.13 on CPUs).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import reduce
from operator import or_
from typing import Any

import torch

from ..ir.axes import Axes, is_image
from ..ir.node import Node, map_leaves
from ..ir.region import Region
from ..transport import Arrival

Take = Callable[[Any], Any]
"""Gives the part of a value that covers a region."""

Put = Callable[[torch.Tensor, torch.Tensor], None]
"""Writes a piece, its second argument, into a tensor."""

Assemble = Callable[[Sequence[torch.Tensor | None]], torch.Tensor]
"""Assembles a region of a value from all of its pieces; this rank's own is the first."""


class Assembly:
    """A region of a value, assembled from this rank's own piece and from those that arrive.

    Parameters
    ----------
    tile
        The regions of the pieces.
    region
        The region to assemble.
    """

    def __init__(self, tile: HaloTile, region: Region):
        self.tile, self.region = tile, region
        axes = tile.axes

        def move(held: Region) -> tuple[Take, Put] | None:
            """How the part of a piece that lies in the region gets there; None if there is none."""
            overlap = held & region
            if overlap.empty:
                return None
            return taker(axes, held, overlap), putter(axes, region, overlap)

        overlaps = [held & region for held in tile.halo]
        # The piece of another rank that is all of the region, if there is one.
        self._whole: tuple[int, Take] | None = None
        if region in overlaps:
            number = overlaps.index(region)
            self._whole = number, taker(axes, tile.halo[number], region)
        self._own, self._halo = move(tile.own), [move(held) for held in tile.halo]
        # Where no halo arrives there are zeros: at the border of the image is padding, and see
        # spnb.ir.program.without_exchange.
        covered = [each for each in (tile.own & region, *overlaps) if not each.empty]
        self._empty = _uncovered(region, covered)
        self._new = message_of(axes, region, tile.dtype, tile.channels_last)

    def begin(self, own: torch.Tensor | None) -> torch.Tensor | None:
        """Memory of the region with this rank's own piece in it; None where another has all."""
        if self._whole is not None:
            return None
        _, found = self._new()
        for each in self._empty:
            fill_zeros(self.tile.axes, found, self.region, each)
        if self._own is not None:
            take, put = self._own
            put(found, take(own))
        return found

    def end(self, begun: torch.Tensor | None, arrived: Sequence[torch.Tensor | None]) -> Any:
        """The assembled region, with the pieces that arrived."""
        if begun is None:
            assert self._whole is not None, "the region was not begun"
            number, take = self._whole
            return take(arrived[number])
        for move, piece in zip(self._halo, arrived, strict=True):
            if move is not None:
                take, put = move
                put(begun, take(piece))
        return begun

    def __call__(self, pieces: Sequence[torch.Tensor | None]) -> torch.Tensor:
        """The assembled region, from all pieces."""
        return self.end(self.begin(pieces[0]), pieces[1:])


@dataclass(frozen=True)
class HaloTile:
    """The regions of the pieces of a value.

    Parameters
    ----------
    region
        The region that the rank needs.
    own
        The region that the rank computes; it may be empty.
    halo
        The regions that other ranks send.  The value is zero where no piece lies.
    axes, dtype
        Where the axes of the image lie in the value, and its type.
    kind
        Kind of the exchange.
    channels_last
        Whether images are stored with channels last.
    """

    region: Region
    own: Region
    halo: tuple[Region, ...]
    axes: Axes
    dtype: torch.dtype
    kind: str
    channels_last: bool = True

    def assembly(self, region: Region) -> Assemble:
        """The function that assembles a region from the pieces."""
        return Assembly(self, region)

    def message(self, region: Region) -> tuple[torch.Tensor, torch.Tensor]:
        """Memory for a piece that is received; see `message`."""
        return message(self.axes, region, self.dtype, self.channels_last)


@dataclass(frozen=True)
class FramedHaloTile(HaloTile):
    """A value that is stored between the rows of its halo, in one buffer.

    Parameters
    ----------
    whole
        The buffer; the rank's own results and the arriving rows are written there.
    """

    whole: torch.Tensor = field(kw_only=True)

    @classmethod
    def of(cls, tile: HaloTile, whole: torch.Tensor) -> FramedHaloTile:
        """The same tile in memory that covers its region."""
        return cls(**{f.name: getattr(tile, f.name) for f in fields(HaloTile)}, whole=whole)

    def assembly(self, region: Region) -> Assemble:
        found = self.axes.piece(self.whole, self.region, region)
        return lambda pieces: found

    def message(self, region: Region) -> tuple[torch.Tensor, torch.Tensor]:
        piece = self.axes.piece(self.whole, self.region, region)
        return piece.movedim(1, -1), piece


@dataclass(slots=True)
class Pieces:
    """The pieces of a value, this rank's own first; some may still be on their way.

    Attributes
    ----------
    tensors
        One for each piece; the first is None if the rank computes no piece itself.
    arrivals
        The messages that bring the other pieces.
    """

    tensors: list[torch.Tensor | None]
    arrivals: list[Arrival] = field(default_factory=list)


def taker(axes: Axes, held: Region, region: Region) -> Take:
    """The function that takes a region out of a value, or a tuple of values, over ``held``."""
    if held == region:
        return lambda value: value
    if not axes.plain:
        return lambda value: map_leaves(lambda tensor: axes.piece(tensor, held, region), value)
    index = axes.within(held, region)

    def take(value: Any) -> Any:
        if isinstance(value, (tuple, list)):
            return type(value)(tensor[index] for tensor in value)
        return value[index]

    return take


def putter(axes: Axes, held: Region, region: Region) -> Put:
    """The function that writes a piece over a region into a tensor over ``held``."""
    if not axes.plain:
        return lambda target, piece: axes.put(target, held, region, piece)
    index = axes.within(held, region)

    def put(target: torch.Tensor, piece: torch.Tensor) -> None:
        target[index].copy_(piece)

    return put


def cut(value: Any, held: Region, region: Region, axes: Axes) -> Any:
    """The part of a value over ``held`` that covers a region; for a tuple, of each element."""
    return taker(axes, held, region)(value)


def room(
    axes: Axes, region: Region, dtype: torch.dtype, channels_last: bool = True
) -> torch.Tensor:
    """Memory for a piece of a value; that of an image may have its channels last."""
    return message(axes, region, dtype, channels_last)[1]


def _uncovered(region: Region, covered: Sequence[Region]) -> list[Region]:
    """Regions with all positions that no piece covers, and perhaps some that one does."""
    if not covered:
        return [region]
    hull = reduce(or_, covered)
    full = sum(each.size for each in covered) == hull.size  # pieces do not overlap
    return region.around(hull) if full else [region]


def fill_zeros(axes: Axes, tensor: torch.Tensor, held: Region, region: Region) -> None:
    """Write zeros over a region of a tensor that covers ``held``."""
    if held == region:
        tensor.zero_()
    elif axes.plain:
        tensor[axes.within(held, region)].zero_()
    else:
        axes.put(tensor, held, region, torch.zeros(axes.local_shape(region), dtype=tensor.dtype))


def nothing(node: Node, region: Region) -> Any:
    """The result of a call over a region that has no positions."""
    empty = room(node.axes, region, node.dtype)
    return (empty,) * len(node.parts) if node.parts else empty


def message(
    axes: Axes, region: Region, dtype: torch.dtype, channels_last: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Memory for a piece of a value that is sent or received.

    Returns
    -------
    (torch.Tensor, torch.Tensor)
        The same memory twice: flat, as it is sent, and in the shape of the value.
    """
    return message_of(axes, region, dtype, channels_last)()


def message_of(
    axes: Axes, region: Region, dtype: torch.dtype, channels_last: bool = True
) -> Callable[[], tuple[torch.Tensor, torch.Tensor]]:
    """The function that gives memory for a piece, as `message` does."""
    shape = axes.local_shape(region)
    if not (channels_last and is_image(axes)):

        def plain() -> tuple[torch.Tensor, torch.Tensor]:
            run = torch.empty(shape, dtype=dtype)
            return run, run

        return plain
    batch, channels, *space = shape
    order = (batch, *space, channels)

    def with_channels_last() -> tuple[torch.Tensor, torch.Tensor]:
        run = torch.empty(order, dtype=dtype)
        return run, run.movedim(-1, 1)

    return with_channels_last


def packed(piece: torch.Tensor, axes: Axes, channels_last: bool = True) -> torch.Tensor:
    """A copy of a piece of a value in one run of memory, as it is sent.

    The value's own memory may be used for another value before the piece is sent.
    """
    ordered = piece.movedim(1, -1) if channels_last and is_image(axes) else piece
    return ordered.clone(memory_format=torch.contiguous_format)


def channels_last(piece: torch.Tensor, axes: Axes) -> torch.Tensor:
    """A piece of a value; that of an image has its channels last in memory."""
    if not is_image(axes):
        return piece.contiguous()
    return piece.movedim(1, -1).contiguous().movedim(-1, 1)


def in_order(value: Any) -> Any:
    """A piece of a value, or of each element of a tuple, in PyTorch's default memory order."""
    return map_leaves(torch.Tensor.contiguous, value)
