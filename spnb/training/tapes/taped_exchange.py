"""The steps of a program in training that send and receive; what is the same in all tapes.

Each step has its reverse: gradients travel in the opposite direction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import torch

from ...ir.exchange import HOST, Transfer
from ...ir.program import Receive, Send
from ...ir.region import Region
from ...ir.tags import backward
from ...runtime.halo_tile import Assembly, HaloTile, Take, message_of, packed, taker
from ...transport import Arrival, Messages
from .tape_values import CHANNELS_LAST, PieceReader, TapedValues

Gradients = list[tuple[Region, torch.Tensor]]
"""Gradients over regions of a value."""


class TapedSend:
    """A step that sends pieces of a value.

    Parameters
    ----------
    step
        The step.
    dtype
        The type of the value.
    name
        How messages of errors name the value.
    """

    def __init__(self, step: Send, dtype: torch.dtype, name: str):
        self.step, self.value, self.axes, self.name = step, step.value, step.axes, name
        self.pieces = [(t, PieceReader(step.value, t.region, step.axes)) for t in step.transfers]
        self.to_host = [t.region for t in step.transfers if t.target == HOST]
        self._back = [
            (t, message_of(step.axes, t.region, dtype, CHANNELS_LAST))
            for t in reversed(step.transfers)
            if t.target != HOST
        ]

    def send(self, values: TapedValues, transport: Messages) -> None:
        """Send the pieces that go to other ranks."""
        for t, piece in self.pieces:
            if t.target != HOST:
                found = packed(piece.read(values), self.axes, CHANNELS_LAST)
                transport.send(t.target, self.step.tag, found)

    def receive_gradients(self, transport: Messages) -> tuple[list[Arrival], Gradients]:
        """Begin to receive the gradients of the pieces."""
        arrivals, found = [], []
        for t, buffer in self._back:
            memory, piece = buffer()
            arrivals.append(transport.receive(t.target, backward(self.step.tag), memory))
            found.append((t.region, piece))
        return arrivals, found


class TapedReceive:
    """A step that receives a value: from the host, or pieces of it from other ranks.

    Parameters
    ----------
    step
        The step.
    whole
        The region of the memory that the value gets; it may have room for padding.
    name
        How messages of errors name the value.
    """

    def __init__(self, step: Receive, whole: Region, name: str):
        self.step, self.value, self.region, self.axes = step, step.value, step.region, step.axes
        self.whole, self.name = whole, name
        self.from_host = any(t.source == HOST for t in step.transfers)
        self.shape = step.axes.local_shape(step.region)
        self._buffers = [
            (t, message_of(step.axes, t.region, step.dtype, CHANNELS_LAST)) for t in step.transfers
        ]
        self._own: OwnRegion | None = None

    def receive(self, transport: Messages) -> tuple[list[Arrival], list[torch.Tensor]]:
        """Begin to receive the pieces."""
        arrivals, pieces = [], []
        for t, buffer in self._buffers:
            memory, piece = buffer()
            arrivals.append(transport.receive(t.source, self.step.tag, memory))
            pieces.append(piece)
        return arrivals, pieces

    def own(self, region: Region | None) -> OwnRegion:
        """What depends on the region that the rank has of the value before this step."""
        if self._own is None or self._own.held != region:
            self._own = OwnRegion(self, region)
        return self._own

    def send_gradients(self, whole: torch.Tensor | None, transport: Messages) -> None:
        """Send the gradients of the pieces; zeros if the value has no gradient."""
        for t, take in self._takes:
            if whole is None:
                piece = torch.zeros(self.axes.local_shape(t.region), dtype=self.step.dtype)
            else:
                piece = packed(take(whole), self.axes, CHANNELS_LAST)
            transport.send(t.source, backward(self.step.tag), piece)

    @cached_property
    def _takes(self) -> Sequence[tuple[Transfer, Take]]:
        return [(t, taker(self.axes, self.region, t.region)) for t in self.step.transfers]


class OwnRegion:
    """A received value and the region of it that the rank had before.

    Attributes
    ----------
    held
        The region that it had; None if it had no part of the value.
    region
        The same; empty if it had no part.
    shape
        Shape of the piece over it.
    """

    def __init__(self, received: TapedReceive, held: Region | None):
        nothing = Region(((0, 0),) * len(received.region.spans))
        self.received, self.held, self.region = received, held, held or nothing
        region = self.region
        self.inside = region & received.region
        self.shape = received.axes.local_shape(region)
        self.reader = PieceReader(received.value, region, received.axes)

    @cached_property
    def assembly(self) -> Assembly:
        """Assembles the value from the rank's own region and the pieces."""
        step = self.received.step
        halo = tuple(t.region for t in step.transfers)
        tile = HaloTile(
            step.region, self.region, halo, step.axes, step.dtype, step.kind, CHANNELS_LAST
        )
        return Assembly(tile, self.received.whole)

    @cached_property
    def take(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """Takes the gradient of the rank's own region."""
        return taker(self.received.axes, self.received.region, self.inside)
