"""Plans the places of results in a rank's memory, once, from their sizes and lifetimes.

An allocator that gives out blocks of many sizes, one after another, ends with many holes between
them: its heap is two or three times as large as the blocks.  A plan knows every size and lifetime
beforehand::

    step      0   1   2   3   4   5          bytes
    x        ├───────────┤                   0      ┐
    y            ├───────────────┤           │ x │ y │      x and y live together, z begins when
    z                        ├───────┤       │ z │          x has ended: it takes its place

If the halo of a tile consists of rows above and below it, one buffer holds all three: the operator
writes the tile into the middle, messages arrive at both ends, and nothing is copied to join them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from ..ir.axes import Axes, rows_beside
from ..ir.node import Node
from ..ir.program import Compute, Free, Keep, Program, Receive, Send, Step, held_by_host
from ..ir.region import Region
from ..rules import Rule
from ..rules.core_first import CoreFirst

ALIGNMENT = 64
"""Bytes of a cache line, to which PyTorch aligns its own memory too."""


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a value in memory.

    Attributes
    ----------
    offset
        First byte of the buffer.
    region
        The region that the buffer covers: the value's own, or that of the value and its halo.
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
    """A buffer, and the first and last step in which it is in use."""

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
    """Give places to the results of a program that can be written into given memory.

    A value has no place if the host receives it, or receives a value that may share its memory.
    A buffer is in use as long as any value that may share its memory: a view, for example.

    Parameters
    ----------
    program
        A rank's steps.
    nodes, rules
        The calls of the rank's stage, and their rules.
    """
    lifetimes = _Lifetimes(program, nodes, rules)
    for number, step in enumerate(program.steps):
        lifetimes.take(number, step)
    return lifetimes.placed()


class _Lifetimes:
    """The buffers of a program; it is given the steps one after another."""

    def __init__(self, program: Program, nodes: Sequence[Node], rules: Sequence[Rule]):
        self._nodes, self._rules = nodes, rules
        self._candidates = _candidates(program, nodes, rules)
        self._read_once = _read_once(program, nodes, rules)
        self._buffers: list[_Buffer] = []
        self._of_value: dict[str, _Buffer] = {}
        self._shared: dict[str, list[_Buffer]] = {}  # by value, the buffers that it may lie in
        self._computed: dict[str, Region] = {}
        self._own: dict[str, Region] = {}  # for values with a halo: the region without it

    def take(self, number: int, step: Step) -> None:
        """Add the next step of the program."""
        if isinstance(step, Compute):
            self._compute(number, step)
        elif isinstance(step, Receive):
            self._receive(step)
        elif isinstance(step, Free):
            for value in step.values:
                self._in_use(value, number)
        elif isinstance(step, Keep):
            self._in_use(step.value, number)

    def placed(self) -> Buffers:
        """All buffers, each at its offset."""
        offsets = _offsets(self._buffers)
        size = max((offset + b.bytes for b, offset in offsets), default=0)
        where = {id(buffer): offset for buffer, offset in offsets}
        places = {v: Place(where[id(b)], b.region) for v, b in self._of_value.items()}
        return Buffers(places, size)

    def _compute(self, number: int, step: Compute) -> None:
        node, rule = self._nodes[step.node], self._rules[step.node]
        self._computed[node.name] = step.region
        if found := self._scratch(step, node, rule):
            axes, region = found
            self._add(scratch_name(rule), region, axes, node.dtype, number)
        if not rule.allocates:
            self._shared[node.name] = [b for v in node.operands for b in self._lies_in(v)]
        if node.name not in self._candidates:
            return
        if (replaced := self._replaced(step, node, rule)) is not None:
            self._of_value[node.name] = replaced
        elif not step.overwrites:
            for name, dtype in zip(result_names(rule), rule.result_types, strict=True):
                self._add(name, step.region, node.axes, dtype, number)
        elif node.operands[-1] in self._of_value:
            self._of_value[node.name] = self._of_value[node.operands[-1]]

    def _replaced(self, step: Compute, node: Node, rule: Rule) -> _Buffer | None:
        """The buffer of the operand, if an elementwise call may write its result over it."""
        value = node.operands[0] if len(node.operands) == 1 else ""
        buffer = self._of_value.get(value)
        if buffer is None or type(rule) is not Rule or node.kind == "cat":
            return None
        alike = buffer.region == step.region and buffer.itemsize == node.dtype.itemsize
        alike = alike and buffer.axes == node.axes and self._computed[value] == step.region
        return buffer if alike and value in self._read_once else None

    def _add(self, name: str, region: Region, axes: Axes, dtype: torch.dtype, number: int) -> None:
        """Add a buffer that is in use in one step, and perhaps later."""
        buffer = _Buffer(region, axes, dtype.itemsize, number, number)
        self._buffers.append(buffer)
        self._of_value[name] = buffer

    def _receive(self, step: Receive) -> None:
        """Enlarge a buffer by the rows of a halo."""
        if step.value in self._computed:
            self._own[step.value] = self._computed[step.value]
        buffer = self._of_value.get(step.value)
        if buffer and rows_beside(step.region, self._candidates[step.value], step.axes):
            buffer.region = buffer.region | step.region

    def _in_use(self, value: str, number: int) -> None:
        """Record that the buffers of a value are in use until this step at least."""
        for buffer in self._lies_in(value):
            buffer.last = max(buffer.last, number)

    def _lies_in(self, value: str) -> list[_Buffer]:
        """The buffers that a value may lie in: its own, and those of values that it may share."""
        own = self._of_value.get(value)
        return [*([] if own is None else [own]), *self._shared.get(value, ())]

    def _scratch(self, step: Compute, node: Node, rule: Rule) -> tuple[Axes, Region] | None:
        """The temporary tensor of a call, unless it computes its core before its halo is here."""
        if not step.clipped or step.region.empty or step.padding is not None:
            return None
        own = self._own.get(node.operands[0])
        if own and isinstance(rule, CoreFirst) and rule.core_and_boundary(own, step.region):
            return None
        return rule.scratch(step.clipped[0], step.region)


def result_names(rule: Rule) -> list[str]:
    """Names of the tensors that a rule writes: its value, and further results of the same call."""
    return [rule.node.name, *(f"{rule.node.name}, {k}" for k in range(1, len(rule.result_types)))]


def scratch_name(rule: Rule) -> str:
    """Name of the temporary tensor that a call writes."""
    return f"{rule.node.name}, on the way"


def _candidates(
    program: Program, nodes: Sequence[Node], rules: Sequence[Rule]
) -> dict[str, Region]:
    """The values that may have a place, with their regions."""
    made: dict[str, Region] = {}
    shared: dict[str, set[str]] = {}  # by value, those whose memory it may share
    for step in program.steps:
        if isinstance(step, Compute):
            node, rule = nodes[step.node], rules[step.node]
            if not rule.allocates:
                shared[node.name] = {s for v in node.operands for s in (v, *shared.get(v, ()))}
            if rule.result_types and not step.region.empty:
                made[node.name] = step.region
    for value in held_by_host(program, nodes):
        for each in (value, *shared.get(value, ())):
            made.pop(each, None)
    return made


def _read_once(program: Program, nodes: Sequence[Node], rules: Sequence[Rule]) -> set[str]:
    """The values that one call reads, and nothing else, and that share no memory with others."""
    made, read = set[str](), list[str]()
    for step in program.steps:
        if isinstance(step, Compute):
            read += nodes[step.node].operands
            if rules[step.node].allocates and not step.overwrites:
                made.add(nodes[step.node].name)
        elif isinstance(step, Send | Receive | Keep):
            read += [step.value] * 2
    counts = Counter(read)
    return {value for value in made if counts[value] == 1}


def _offsets(buffers: Iterable[_Buffer]) -> list[tuple[_Buffer, int]]:
    """Offsets of buffers, such that no two overlap that are in use at the same time.

    Buffers are placed by size, the largest first, each at the lowest offset that is free during its
    life (Pisarchyk and Lee, *Efficient memory management for deep neural net inference*, 2020).
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
