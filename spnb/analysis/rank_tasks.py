"""What takes time in the programs of a rank, forward and backward: seconds in place of tensors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from ..ir.axes import rows_beside
from ..ir.cost import Machine
from ..ir.exchange import HOST
from ..ir.node import Node
from ..ir.program import Compute, Free, Keep, Program, Receive, Segments, Send
from ..ir.region import Region
from ..ir.tags import backward
from ..planner.needs import extent_in
from ..planner.plan import Plan
from ..rules import rule_of
from ..rules.core_first import CoreAndBoundary, CoreFirst
from .memory import value_bytes
from .patched_memory import disk_bytes_in_the_middle, middle_patch
from .segments import segments_of


class Task(NamedTuple):
    """An operation of a program that takes time.

    Attributes
    ----------
    kind, layer, what
        As in `spnb.runtime.trace.Event`.
    seconds
        Its duration; a wait lasts until its messages have arrived.
    bytes
        Number of bytes that it moves.
    messages
        Rank of the plan and tag: of a pack the target, of a wait each source.
    """

    kind: str
    layer: str
    what: str
    seconds: float
    bytes: int
    messages: tuple[tuple[int, int], ...] = ()


class RankTasks:
    """The tasks of a rank of a plan, for a micro-batch.

    Parameters
    ----------
    plan
        The plan.
    rank
        A rank of the plan.
    images
        Images in the micro-batch.
    machine
        The cost model.
    """

    def __init__(self, plan: Plan, rank: int, images: int, machine: Machine):
        self.plan, self.rank, self.images, self.machine = plan, rank, images, machine
        self.stage = plan.stage_of(rank)
        self._paths = self.stage.paths(plan.graph)
        self._programs = plan.programs(rank, images)
        self._awaited: dict[str, Receive] = {}  # values with messages that nothing has read yet
        self._beside: dict[str, Receive] = {}  # values with a halo that lies beside the tile

    def forward(self) -> list[Task]:
        """The tasks of a forward pass, in order."""
        tasks = [task for program in self._programs for task in self._forward(program)]
        if self.plan.finer is not None and self.stage.index == 0:
            tasks.append(self._patches())
        return tasks

    def own_seconds(self) -> float:
        """Seconds of all tasks of a rank, those of its backward pass included; no wait counts."""
        tasks = self.forward()
        if self.plan.graph.training:
            tasks += self.backward()
        return sum(task.seconds for task in tasks)

    def _patches(self) -> Task:
        """What patches take longer than the tile at once, and what they write to disk and read."""
        longer, size = _of_patches(self.plan, self.images, self.machine)
        return Task("unpack", "", "patches", longer + size / self.machine.memory, size)

    def backward(self) -> list[Task]:
        """The tasks of the backward pass, in order.

        Steps are gone through in reverse: where a value was received its gradient is sent, and
        where it was sent its gradient arrives.
        """
        (program,) = self._programs
        segments, tasks = Segments(), list[Task]()
        if self.plan.recompute:
            segments = segments_of(self.plan, self.rank, self.images)
        recorded: set[int] = set()
        for number, step in reversed(list(enumerate(program.steps))):
            match step:
                case Compute():
                    first, stop = segments.of(number) or (0, 0)
                    if stop and first not in recorded:
                        recorded.add(first)
                        again = (s for s in program.steps[first:stop] if isinstance(s, Compute))
                        tasks += [self._compute(each) for each in again]
                    tasks.append(self._compute(step, self.machine.backward))
                case Receive():
                    tasks += self._gradient_sent(step)
                case Send():
                    tasks += self._gradient_arrives(step)
        return tasks

    def sums(self) -> Iterator[Task]:
        """The tasks after the passes of a step: sums of gradients over ranks, and the optimizer."""
        weights = sum(
            math.prod(w.shape)
            for w in {w.name: w for node in self.stage.nodes for w in node.weights}.values()
        )
        size, ranks = 4 * weights, len(self.stage.team.ranks) * self.plan.replicas.count
        if ranks > 1:  # a ring: each rank sends and receives all of it twice
            moved = 2 * size * (ranks - 1) // ranks
            seconds = moved / self.machine.link + 2 * (ranks - 1) * self.machine.latency
            yield Task("wait", "", "sum", seconds, moved)
        # The optimizer reads weights, gradients and two moments, and writes three of them.
        yield Task("compute", "", "optimizer", 7 * size / self.machine.memory, 0)

    # --- forward ----------------------------------------------------------------------------

    def _forward(self, program: Program) -> Iterator[Task]:
        own: dict[str, Region] = {}
        for step in program.steps:
            match step:
                case Compute():
                    yield from self._computed(step, own)
                    own[self.stage.nodes[step.node].name] = step.region
                case Send():
                    yield from self._pack(step)
                case Receive():
                    yield from self._receive(step)
                case Keep():
                    yield self._copy("unpack", "patch", step.value, step.own)
                    own[step.value] = step.whole
                case Free():
                    yield from (t for value in step.values for t in self._arrive(value))

    def _computed(self, step: Compute, own: dict[str, Region]) -> Iterator[Task]:
        """An operator, and before it the arrival of what it reads.

        The core of a tile is computed before its halo is here, and the boundary afterwards.
        """
        node = self.stage.nodes[step.node]
        split = self._split(node, step, own)
        for value in node.operands[split is not None :]:
            yield from self._joined(value, own)
        yield self._compute(step)
        if split is not None and split.boundary:
            value = node.operands[0]
            yield from self._arrive(value)
            halo = [t.region for t in self._beside[value].transfers]
            size = sum(value_bytes(self.plan, value, region) for region in halo)
            yield self._moved("unpack", "halo", value, size)
            yield self._of_node(node, split.boundary)

    def _split(self, node: Node, step: Compute, own: dict[str, Region]) -> CoreAndBoundary | None:
        """The core and the boundary of a result, if its operand's halo lies beside the tile."""
        if self.plan.graph.training or not node.operands or step.padding is not None:
            return None
        rule, value = rule_of(node), node.operands[0]
        if value not in self._beside or value not in own or not isinstance(rule, CoreFirst):
            return None
        return None if step.region.empty else rule.core_and_boundary(own[value], step.region)

    def _joined(self, value: str, own: dict[str, Region]) -> Iterator[Task]:
        """The arrival of a value, and the copy that puts tile and halo together."""
        yield from self._arrive(value)
        step = self._beside.pop(value, None)
        if step is None:
            return
        held = own.get(value)
        if held is not None and rows_beside(step.region, held, step.axes):  # arrives at its place
            size = sum(value_bytes(self.plan, value, t.region) for t in step.transfers)
        else:
            size = value_bytes(self.plan, value, step.region)
        yield self._moved("unpack", step.kind, value, size)

    def _arrive(self, value: str) -> Iterator[Task]:
        """The wait for the messages of a value, unless they have arrived."""
        step = self._awaited.pop(value, None)
        if step is not None:
            arriving = sum(value_bytes(self.plan, value, t.region) for t in step.transfers)
            messages = tuple((t.source, step.tag) for t in step.transfers)
            yield Task("wait", self._layer(value), step.kind, 0.0, arriving, messages)

    def _receive(self, step: Receive) -> Iterator[Task]:
        """A part of the image is read; messages are awaited where they are first read."""
        if any(t.source == HOST for t in step.transfers):
            yield self._copy("read", step.kind, step.value, step.region)
            return
        self._beside[step.value] = step
        if step.transfers:
            self._awaited[step.value] = step

    def _pack(self, step: Send) -> Iterator[Task]:
        """A copy for each message; values that the host receives are not messages."""
        for t in step.transfers:
            if t.target != HOST:
                packed = self._copy("pack", step.kind, step.value, t.region)
                yield packed._replace(messages=((t.target, step.tag),))

    def _compute(self, step: Compute, times: float | None = None) -> Task:
        """A call; by default it takes as long as in a forward pass."""
        if times is None:
            times = self.machine.recorded if self.plan.graph.training else 1.0
        return self._of_node(self.stage.nodes[step.node], [step.region], times)

    def _of_node(self, node: Node, regions: Iterable[Region], times: float = 1.0) -> Task:
        """A call on some regions of its result."""
        graph = self.plan.graph
        whole = math.prod(extent_in(graph, node.name, graph.batch))
        shares = [region.size / whole for region in regions]
        seconds = sum(self.machine.seconds(node, share) for share in shares if share)
        return Task("compute", node.path, node.kind, times * seconds, 0)

    # --- backward ---------------------------------------------------------------------------

    def _gradient_sent(self, step: Receive) -> Iterator[Task]:
        for t in step.transfers:
            if t.source != HOST:
                packed = self._copy("pack", step.kind, step.value, t.region)
                yield packed._replace(messages=((t.source, backward(step.tag)),))

    def _gradient_arrives(self, step: Send) -> Iterator[Task]:
        arriving = [t for t in step.transfers if t.target != HOST]
        if arriving:
            size = sum(value_bytes(self.plan, step.value, t.region) for t in arriving)
            messages = tuple((t.target, backward(step.tag)) for t in arriving)
            yield Task("wait", self._layer(step.value), step.kind, 0.0, size, messages)
            yield self._moved("unpack", step.kind, step.value, 3 * size)  # read, add and write

    # --- copies -----------------------------------------------------------------------------

    def _copy(self, kind: str, what: str, value: str, region: Region) -> Task:
        """A region of a value is copied in memory."""
        return self._moved(kind, what, value, value_bytes(self.plan, value, region))

    def _moved(self, kind: str, what: str, value: str, size: int) -> Task:
        return Task(kind, self._layer(value), what, size / self.machine.memory, size)

    def _layer(self, value: str) -> str:
        return self._paths.get(value, value)


@lru_cache(maxsize=64)
def _of_patches(plan: Plan, images: int, machine: Machine) -> tuple[float, int]:
    """Seconds that the patches of a tile take longer than the tile, and bytes to and from disk.

    A patch in the middle of a tile in the middle stands for all.
    """
    assert plan.finer is not None
    team = plan.stages[0].team
    rank = team.rank_at([n // 2 for n in team.tiling.grid])
    patch = RankTasks(plan.finer, middle_patch(plan, rank), images, machine)
    tile = RankTasks(plan, rank, images, machine)
    of_tile = sum(task.seconds for program in tile._programs for task in tile._forward(program))
    of_patches = patch.own_seconds() * plan.owners.count(rank)
    if plan.graph.training:  # a patch is computed again before it goes backward
        of_patches += sum(task.seconds for task in patch.forward()) * plan.owners.count(rank)
        of_tile += sum(task.seconds for task in tile.backward())
    return max(0.0, of_patches - of_tile), 2 * disk_bytes_in_the_middle(plan, rank)
