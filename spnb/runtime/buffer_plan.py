"""Where results lie in a rank's memory: planned once from their lifetimes, and reused.

An allocator that is asked for blocks of many sizes, one after the other, ends with a heap of holes
two or three times as large as what it holds.  A plan knows every size and lifetime beforehand::

    step      0   1   2   3   4   5          bytes
    x        ├───────────┤                   0      ┐
    y            ├───────────────┤           │ x │ y │      x and y live together, z begins when
    z                        ├───────┤       │ z │          x has ended: it takes its place

A value whose halo is rows above and below it lies between them from the start: what computes it
writes into the middle, messages arrive at the ends, and nothing is ever put together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..ir.axes import Axes, rows_beside
from ..ir.node import Node
from ..ir.program import Compute, Free, Keep, Program, Receive, held_by_host
from ..ir.region import Region
from ..rules import Rule

ALIGNMENT = 64
"""Bytes: of a cache line, and what PyTorch's own memory has."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value lies.

    Attributes
    ----------
    offset
        First byte of the buffer.
    region
        What the buffer covers: the value, perhaps between the rows of its halo.
    """

    offset: int
    region: Region


@dataclass(frozen=True)
class Buffers:
    """The places of the values that have one, in a run of ``size`` bytes."""

    places: Mapping[str, Place] = field(default_factory=dict)
    size: int = 0


@dataclass
class _Buffer:
    """A buffer to be, and the steps between which it is in use."""

    region: Region
    axes: Axes
    itemsize: int
    first: int
    last: int

    @property
    def bytes(self) -> int:
        size = self.axes.local_bytes(self.region, self.itemsize)
        return -(-size // ALIGNMENT) * ALIGNMENT


def plan_buffers(program: Program, nodes: Sequence[Node], rules: Sequence[Rule]) -> Buffers:
    """Give places to the results of a program's convolutions, and others that can be placed.

    Not to those that the host gets, nor to those that others may hold a view of: their memory is
    theirs as long as they like.

    Parameters
    ----------
    program
        A rank's steps.
    nodes, rules
        Of its stage.
    """
    candidates = _candidates(program, nodes, rules)
    buffers: list[_Buffer] = []
    of_value: dict[str, _Buffer] = {}
    made: dict[str, Region] = {}
    own: dict[str, Region] = {}  # of values whose halo lies beside them, what is no halo
    for number, step in enumerate(program.steps):
        if isinstance(step, Receive) and step.value in made:
            own[step.value] = made[step.value]
        if isinstance(step, Compute):
            node, rule = nodes[step.node], rules[step.node]
            made[node.name] = step.region
            if found := _scratch(step, node, rule, own):
                axes, region = found
                scratch = _Buffer(region, axes, node.dtype.itemsize, number, number)
                buffers.append(scratch)
                of_value[scratch_name(rule)] = scratch
            if node.name not in candidates:
                continue
            if not step.overwrites:
                for name, dtype in zip(result_names(rule), rule.result_types, strict=True):
                    buffer = _Buffer(step.region, node.axes, dtype.itemsize, number, number)
                    buffers.append(buffer)
                    of_value[name] = buffer
            elif node.operands[-1] in of_value:
                of_value[node.name] = of_value[node.operands[-1]]
        elif isinstance(step, Receive) and (buffer := of_value.get(step.value)):
            if rows_beside(step.region, candidates[step.value], step.axes):
                buffer.region = buffer.region | step.region
        elif isinstance(step, Free):
            for value in step.values:
                if value in of_value:
                    of_value[value].last = number
        elif isinstance(step, Keep) and step.value in of_value:
            of_value[step.value].last = number
    offsets = _offsets(buffers)
    size = max((offset + b.bytes for b, offset in offsets), default=0)
    where = {id(buffer): offset for buffer, offset in offsets}
    places = {v: Place(where[id(b)], b.region) for v, b in of_value.items()}
    return Buffers(places, size)


def _scratch(
    step: Compute, node: Node, rule: Rule, own: Mapping[str, Region]
) -> tuple[Axes, Region] | None:
    """What a call writes on the way, unless it computes before its halo is here."""
    if not step.clipped or step.region.empty or step.padding is not None:
        return None
    owned = own.get(node.operands[0])
    if owned is not None and rule.core_and_boundary(owned, step.region):
        return None
    return rule.scratch(step.clipped[0], step.region)


def result_names(rule: Rule) -> list[str]:
    """Names of the tensors that a rule writes: of its value, and of what comes with it."""
    return [rule.node.name, *(f"{rule.node.name}, {k}" for k in range(1, len(rule.result_types)))]


def scratch_name(rule: Rule) -> str:
    """Name of the tensor that a rule writes on the way."""
    return f"{rule.node.name}, on the way"


def _candidates(
    program: Program, nodes: Sequence[Node], rules: Sequence[Rule]
) -> dict[str, Region]:
    """What each value covers that may have a place."""
    made: dict[str, Region] = {}
    for step in program.steps:
        if isinstance(step, Compute):
            node = nodes[step.node]
            for value in node.operands:
                if not rules[step.node].allocates:
                    made.pop(value, None)
            if rules[step.node].result_types and not step.region.empty:
                made[node.name] = step.region
    for value in held_by_host(program, nodes):
        made.pop(value, None)
    return made


def _offsets(buffers: Iterable[_Buffer]) -> list[tuple[_Buffer, int]]:
    """Places for buffers, so that none overlap which are in use at the same time.

    The largest first, each at the lowest offset that is free as long as it lives: greedy by size
    (Pisarchyk and Lee, *Efficient memory management for deep neural net inference*, 2020).
    """
    placed: list[tuple[_Buffer, int]] = []
    for buffer in sorted(buffers, key=lambda b: (-b.bytes, b.first)):
        offset = 0
        for other, start in sorted(placed, key=lambda each: each[1]):
            if other.first > buffer.last or other.last < buffer.first:
                continue
            if offset + buffer.bytes <= start:
                break
            offset = max(offset, start + other.bytes)
        placed.append((buffer, offset))
    return placed
