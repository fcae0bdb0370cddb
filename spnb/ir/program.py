"""The program of one rank for one micro-batch: a short list of steps, as plain picklable data."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from .axes import Axes
from .exchange import HOST, Exchange, Transfer
from .node import Node
from .region import Region


@dataclass(frozen=True, slots=True)
class Receive:
    """Collect the needed region of a value: its own part, and the parts that others send.

    Attributes
    ----------
    tag, value, kind
        Tag, value and kind of the exchange.
    region
        The needed region; afterwards the rank holds the value on it.
    retained
        The part of the region that this rank computed itself.
    transfers
        The messages that arrive.
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
    """Return the step by which a rank receives its part of an exchange."""
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

    ``needs`` are regions as the rule gave them, which may run past the extent; ``clipped`` are
    their parts inside.  ``overwrites`` says whether the result may overwrite the operand that is
    added to it (see `spnb.rules.fused`); no later step reads that operand.  ``padding``, if given,
    is the number of zeros that PyTorch's operator adds on both sides.  The region is then larger
    than what is needed, and its other positions are wrong (see `spnb.planner.widen`).
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
    """Copy a value of a patch to its place in the tile, and drop the patch's value.

    Attributes
    ----------
    value
        Name of the value.
    own, whole
        The regions that the patch and the tile own.
    axes, dtype
        Axes and type of the value.
    last
        Whether this patch completes the tile; the tile is then the value of this name.
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


@dataclass(frozen=True)
class Segments:
    """The parts of a program whose values training computes again in the backward pass.

    Between the passes a rank has the values that are alive where a segment begins, and what the
    segment received.  Values after the last segment are held::

        steps      0 ──────────► 12 ─────────► 30 ────────► end
                   │ segment     │ segment     │ held
        in memory  values alive  values alive  all that autograd saves

    Attributes
    ----------
    starts
        Numbers of the steps at which segments begin, in order; a segment ends where the next one
        begins.
    stop
        Number of the first step after the last segment.

    Examples
    --------
    >>> segments = Segments((0, 12), 30)
    >>> segments.of(20), segments.of(35)
    ((12, 30), None)
    """

    starts: tuple[int, ...] = ()
    stop: int = 0

    @classmethod
    def whole(cls, program: Program) -> Segments:
        """All of a program as one segment."""
        return cls((0,), len(program.steps))

    @classmethod
    def dropped(cls, program: Program) -> Segments:
        """All of a program, of which nothing is held: no backward pass follows."""
        return cls((), len(program.steps))

    @classmethod
    def between_waits(cls, program: Program) -> Segments:
        """All of a program, in segments that wait for other ranks only before their first call.

        Nothing is recorded then while a pass waits, forward or backward.
        """
        starts, after_send = [0], False
        for number, step in enumerate(program.steps):
            if isinstance(step, Send):
                after_send = after_send or any(t.target != HOST for t in step.transfers)
            elif isinstance(step, Receive):
                if after_send or any(t.source != HOST for t in step.transfers):
                    starts.append(number)
                after_send = False
            elif isinstance(step, Compute) and after_send:
                starts.append(number)
                after_send = False
        return cls(tuple(dict.fromkeys(starts)), len(program.steps))

    def of(self, number: int) -> tuple[int, int] | None:
        """The first step, and the one after the last, of a step's segment; None if it is held."""
        if number >= self.stop or not self.starts:
            return None
        index = bisect_right(self.starts, number) - 1
        return self.starts[index], (*self.starts, self.stop)[index + 1]


def without_exchange(program: Program) -> Program:
    """Return a program that does the same work and exchanges no message with other ranks.

    Its time is that of the program if messages cost nothing.  Zeros stand for everything that would
    have arrived, so its result is wrong.
    """

    def silent(step: Step) -> Step:
        if isinstance(step, Send):
            return replace(step, transfers=tuple(t for t in step.transfers if t.target == HOST))
        if isinstance(step, Receive):
            return replace(step, transfers=tuple(t for t in step.transfers if t.source == HOST))
        return step

    return Program(tuple(map(silent, program.steps)))


def held_by_host(program: Program, nodes: Sequence[Node]) -> list[str]:
    """Return the values in memory that the host holds: outputs, and values that they overwrote."""
    found = [
        step.value
        for step in program.steps
        if isinstance(step, Send) and any(t.target == HOST for t in step.transfers)
    ]
    for step in reversed(program.steps):
        if isinstance(step, Compute) and step.overwrites and nodes[step.node].name in found:
            found.append(nodes[step.node].operands[-1])
    return found
