"""What one rank does for one micro-batch: a short list of steps, as plain picklable data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from .axes import Axes
from .exchange import HOST, Exchange, Transfer
from .node import Node
from .region import Region


@dataclass(frozen=True, slots=True)
class Receive:
    """Collect the needed region of a value: what this rank has, and what others send.

    Attributes
    ----------
    tag, value, kind
        Of the exchange.
    region
        The region needed; afterwards the value is held on it.
    retained
        The part of it that this rank computed itself.
    transfers
        What arrives.
    axes
        Where the axes of the image lie in the value.
    """

    tag: int
    value: str
    kind: str
    region: Region
    retained: Region | None
    transfers: tuple[Transfer, ...]
    axes: Axes
    dtype: torch.dtype


def receive_step(exchange: Exchange, rank: int, axes: Axes, dtype: torch.dtype) -> Receive:
    """What a rank does to receive its share of an exchange of a value of this type."""
    return Receive(
        exchange.tag,
        exchange.value,
        exchange.kind,
        exchange.need(rank),
        exchange.retained(rank),
        exchange.receives(rank),
        axes,
        dtype,
    )


@dataclass(frozen=True, slots=True)
class Send:
    """Send the regions of a value that others need."""

    tag: int
    value: str
    kind: str
    transfers: tuple[Transfer, ...]
    axes: Axes


@dataclass(frozen=True, slots=True)
class Compute:
    """Compute a region of a node's value from the needed regions of its operands.

    ``needs`` are as the rule gave them (they may run past the extent), ``clipped`` the part inside.
    ``overwrites`` is whether the result may take the place of what is added to it (see
    `spnb.rules.fused`), which no later step reads.  ``padding``, if given, is what windows are to
    add on both sides by themselves: the region is then more than is needed, and what of it reads
    beyond the needs is wrong (see `spnb.planner.widen`).
    """

    node: int
    region: Region
    needs: tuple[Region, ...]
    clipped: tuple[Region, ...]
    overwrites: bool = False
    padding: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Free:
    """Drop values after their last use."""

    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Keep:
    """Copy what a patch computed of a value to its place in the tile, and drop it.

    Attributes
    ----------
    value
        Which.
    own, whole
        What the patch owns, and what the tile does.
    axes, dtype
        Of the value.
    last
        Whether the tile is complete then, and is the value from now on.
    """

    value: str
    own: Region
    whole: Region
    axes: Axes
    dtype: torch.dtype
    last: bool


Step = Receive | Send | Compute | Free | Keep


@dataclass(frozen=True)
class Program:
    """Steps of one rank for a micro-batch of a given number of images, in order."""

    steps: tuple[Step, ...]


def without_exchange(program: Program) -> Program:
    """Return a program that does the same work and exchanges no message with other ranks.

    Its time is what the program would take if messages cost nothing.  What would have arrived is
    zeros, so its result is wrong.
    """

    def silent(step: Step) -> Step:
        if isinstance(step, Send):
            return replace(step, transfers=tuple(t for t in step.transfers if t.target == HOST))
        if isinstance(step, Receive):
            return replace(step, transfers=tuple(t for t in step.transfers if t.source == HOST))
        return step

    return Program(tuple(map(silent, program.steps)))


def held_by_host(program: Program, nodes: Sequence[Node]) -> list[str]:
    """Return the values whose memory the host holds: outputs, and what they overwrote."""
    found = [
        step.value
        for step in program.steps
        if isinstance(step, Send) and any(t.target == HOST for t in step.transfers)
    ]
    for step in reversed(program.steps):
        if isinstance(step, Compute) and step.overwrites and nodes[step.node].name in found:
            found.append(nodes[step.node].operands[-1])
    return found
