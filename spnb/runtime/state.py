"""One pass of a rank over the batch: the values that it holds, and the pieces of its results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from ..ir.region import Region
from ..transport import Messages
from .trace import Recorder

if TYPE_CHECKING:
    from .answers import Answers

Read = Callable[[str, Region], torch.Tensor]
"""Reads a region of one of the network's inputs; regions count the images of the whole batch."""


@dataclass(frozen=True)
class Piece:
    """A region of one of the network's outputs, held by the rank that computed it.

    Attributes
    ----------
    value
        Name of the output.
    region
        The region, in the output of the whole batch.
    tensor
        Its values.
    first_image
        Number in the batch of the first image of the micro-batch that it is of.
    """

    value: str
    region: Region
    tensor: torch.Tensor
    first_image: int = 0


@dataclass
class RunState:
    """State of one pass over the batch.

    Attributes
    ----------
    transport
        The carrier, with ranks numbered as in the plan.
    read
        Reads the network's inputs.
    report_node
        Called with the number of each node that was computed.
    recorder
        Collects the events of the pass.
    values
        The values that the rank holds: each a tensor, a tuple of tensors, or `Pieces` if its halo
        is in separate tensors.
    tiles
        Values of a tile that is computed in patches; patches still to come are missing.
    pieces
        The regions of the network's outputs that the rank has computed so far.
    at
        The operation that the rank is at, for the message of an error.
    first_image
        Number of the micro-batch's first image in the batch.
    answers
        Finds the answers to regions of one colour once, if that is wanted.
    """

    transport: Messages
    read: Read
    report_node: Callable[[int], None] = lambda node: None
    recorder: Recorder = field(default_factory=Recorder)
    values: dict[str, Any] = field(default_factory=dict)
    tiles: dict[str, torch.Tensor] = field(default_factory=dict)
    pieces: list[Piece] = field(default_factory=list)
    at: str = "start"
    first_image: int = 0
    answers: Answers | None = None


Action = Callable[[RunState], Any]
"""A compiled step of a program; an action that reads a value returns it."""
