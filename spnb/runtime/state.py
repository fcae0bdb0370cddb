"""One pass of a rank over the batch: the values in hand, and what it has to show at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from ..ir.region import Region
from ..transport import Transport
from .trace import Recorder

Read = Callable[[str, Region], torch.Tensor]
"""Reads a region, over the batch and space of the whole batch, of one of the network's inputs."""


@dataclass(frozen=True)
class Piece:
    """A region of one of the network's outputs, held by the rank that computed it."""

    value: str
    region: Region
    tensor: torch.Tensor


@dataclass
class RunState:
    """State of one pass over the batch: the values in hand.

    Attributes
    ----------
    values
        Each a tensor or a tuple of them; `Pieces` while its halo lies beside it.
    tiles
        Values of a tile that is computed in patches, as far as they are.
    at
        What is being done, to say so where it fails.
    first_image
        Of the micro-batch, in the batch.
    """

    transport: Transport
    read: Read
    told: Callable[[int], None] = lambda node: None
    recorder: Recorder = field(default_factory=Recorder)
    values: dict[str, Any] = field(default_factory=dict)
    tiles: dict[str, torch.Tensor] = field(default_factory=dict)
    pieces: list[Piece] = field(default_factory=list)
    at: str = "start"
    first_image: int = 0


Action = Callable[[RunState], Any]
"""A step that is ready to be done in a run."""
