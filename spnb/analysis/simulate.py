"""Simulates a plan: the operations of each rank with their times, on a machine of a few numbers.

Every rank's program runs with durations in place of tensors.  A rank that waits continues when its
message arrives.  So the simulation is also a proof: it ends only if every receive has its send, and
if no two ranks wait for each other.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from ..ir.cost import CORE, Machine
from ..ir.exchange import HOST
from ..ir.node import Node
from ..ir.program import Compute, Keep, Receive, Send
from ..ir.region import Region
from ..ir.replicas import turns_of
from ..ir.schedule import at_once
from ..planner.needs import extent_in
from ..planner.plan import Plan
from ..runtime import trace
from ..runtime.trace import Event
from .memory import value_bytes
from .untiled import untiled

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Key = tuple[int, int, int, int]
"""A message: source, target, tag and micro-batch."""


@dataclass(frozen=True, eq=False)
class Simulation:
    """The time that a plan would take, and the operations of each rank with their times.

    Attributes
    ----------
    plan
        The plan that was simulated.
    machine
        The cost model: the device that each rank has for itself, and the links.
    events
        Events of each rank, in order of time, as a run records them; times are in seconds since the
        start.

    Examples
    --------
    >>> import spnb
    >>> job = spnb.Job("resnet20_v1", image_size=512, batch_size=1)
    >>> found = spnb.plan(job).simulate()
    >>> found.speedup > 1, found.timings["rank"].nunique()
    (True, 5)
    """

    plan: Plan
    machine: Machine
    events: tuple[tuple[Event, ...], ...]

    @property
    def seconds(self) -> float:
        """Seconds from the start to the last event of any rank."""
        return max((each[-1].stop for each in self.events if each), default=0.0)

    @cached_property
    def untiled_seconds(self) -> float:
        """Seconds of the same network and batch on one rank of the same machine."""
        return simulate(untiled(self.plan), self.machine).seconds

    @property
    def speedup(self) -> float:
        """Seconds on one rank, divided by seconds of the plan."""
        return self.untiled_seconds / self.seconds

    @cached_property
    def timings(self) -> pd.DataFrame:
        """A row for each event of each rank; columns as of `spnb.driver.result.Result.timings`."""
        return trace.table(enumerate(self.events))

    def plot_timeline(self, ax: Axes | None = None) -> Axes:
        """Draw what each rank would do when.

        Parameters
        ----------
        ax
            Where to draw; a new figure by default.

        Returns
        -------
        matplotlib.axes.Axes

        Examples
        --------
        >>> import spnb
        >>> job = spnb.Job("resnet20_v1", image_size=64, batch_size=1)
        >>> spnb.plan(job).simulate().plot_timeline().get_xlabel()
        'time since all ranks were ready (ms)'
        """
        from ..display import plots

        return plots.timeline(self.timings, ax=ax)

    def __repr__(self) -> str:
        ranks = self.plan.num_ranks
        return (
            f"Simulation: {self.seconds:.3g} s on {ranks} ranks, {self.untiled_seconds:.3g} s on"
            f" one: {self.speedup:.3g} times as fast, {self.speedup / ranks:.0%} of {ranks}"
        )


def simulate(plan: Plan, machine: Machine = CORE) -> Simulation:
    """Run a plan's programs on a clock.

    Parameters
    ----------
    plan
        A plan of any number of ranks; a thousand ranks take some seconds.
    machine
        The device that each rank has for itself, and the links.  Ranks that share cores take longer
        than simulated.

    Returns
    -------
    Simulation
        Seconds, speedup and every event.

    Examples
    --------
    >>> import spnb
    >>> job = spnb.Job("resnet20_v1", image_size=256, batch_size=4, parts=4)
    >>> run = simulate(spnb.plan(job))
    >>> run.seconds < run.untiled_seconds
    True
    """
    arrivals: dict[Key, float] = {}
    waiting: dict[Key, int] = {}
    ranks = [_Rank(plan, rank, machine) for rank in range(plan.num_ranks)]
    runs = [rank.run(arrivals) for rank in ranks]
    ready = deque(range(plan.num_ranks))
    while ready:
        rank = ready.popleft()
        for sent, needed in runs[rank]:
            if sent in waiting:
                ready.append(waiting.pop(sent))
            if needed is not None:
                waiting[needed] = rank
                break
    assert not waiting, f"ranks {sorted(set(waiting.values()))} wait for messages no rank sends"
    assert not arrivals, f"no rank receives the messages {sorted(arrivals)[:3]}"
    return Simulation(plan, machine, tuple(tuple(rank.events) for rank in ranks))


class _Task(NamedTuple):
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


class _Rank:
    """One simulated rank, with its current time."""

    def __init__(self, plan: Plan, rank: int, machine: Machine):
        self.plan, self.rank, self.machine = plan, rank, machine
        self.events: list[Event] = []
        self.now = self.link_free = 0.0
        self.stage = self.number = 0

    def run(self, arrivals: dict[Key, float]) -> Iterator[tuple[Key | None, Key | None]]:
        """Run the program; yield each message sent, and each message to wait for."""
        plan, sizes = self.plan, set(self.plan.micro_batch_sizes)
        plan_ranks = plan.plan_ranks_of(self.rank)
        pipelines = plan.replicas.of(plan.replica_of(self.rank))
        stages = [plan.stage_of(plan_rank).index for plan_rank in plan_ranks]
        tasks = [{n: self._tasks(plan_rank, n) for n in sizes} for plan_rank in plan_ranks]
        for pipeline, stage, turn in at_once(turns_of(pipelines, stages)):
            for number in turn:
                self.stage, self.number = stage, number
                world = pipelines[pipeline].ranks
                for task in tasks[pipeline][plan.micro_batch_sizes[number]]:
                    if task.kind == "wait":
                        yield from self._wait(task, world, arrivals)
                        continue
                    self._note(task, self.now, self.now + task.seconds)
                    if task.kind == "pack":
                        yield self._send(task, world, arrivals), None

    def _wait(
        self, task: _Task, world: Sequence[int], arrivals: dict[Key, float]
    ) -> Iterator[tuple[None, Key]]:
        """Yield each message that has not arrived, and continue when the last one has."""
        latest = self.now
        for source, tag in task.messages:
            key = (world[source], self.rank, tag, self.number)
            while key not in arrivals:
                yield None, key
            latest = max(latest, arrivals.pop(key))
        self._note(task, self.now, latest)

    def _send(self, task: _Task, world: Sequence[int], arrivals: dict[Key, float]) -> Key:
        """Send a packed message, after the messages that the link still carries."""
        ((target, tag),) = task.messages
        self.link_free = max(self.now, self.link_free) + task.bytes / self.machine.link
        key = (self.rank, world[target], tag, self.number)
        arrivals[key] = self.link_free + self.machine.latency
        return key

    def _note(self, task: _Task, start: float, stop: float) -> None:
        self.events.append(
            Event(
                self.stage, self.number, task.layer, task.kind, task.what, start, stop, task.bytes
            )
        )
        self.now = stop

    def _tasks(self, rank: int, images: int) -> list[_Task]:
        """Return the operations that take time in the program of a rank of the plan."""
        stage = self.plan.stage_of(rank)
        paths = stage.paths(self.plan.graph)
        tasks: list[_Task] = []
        for program in self.plan.programs(rank, images):
            for step in program.steps:
                match step:
                    case Compute():
                        tasks.append(self._compute(stage.nodes[step.node], step))
                    case Send():
                        tasks += self._pack(step, paths.get(step.value, step.value))
                    case Receive():
                        tasks += self._receive(step, paths.get(step.value, step.value))
                    case Keep():
                        layer = paths.get(step.value, step.value)
                        tasks.append(self._copy("unpack", layer, "patch", step.value, step.own))
        return tasks

    def _compute(self, node: Node, step: Compute) -> _Task:
        graph = self.plan.graph
        share = step.region.size / math.prod(extent_in(graph, node.name, graph.batch))
        seconds = self.machine.seconds(node, share) if share else 0.0
        return _Task("compute", node.path, node.kind, seconds, 0)

    def _copy(self, kind: str, layer: str, what: str, value: str, region: Region) -> _Task:
        """Return the task that copies a region of a value in memory."""
        size = value_bytes(self.plan, value, region)
        return _Task(kind, layer, what, size / self.machine.memory, size)

    def _pack(self, step: Send, layer: str) -> list[_Task]:
        """Return a task for each message; values that the host receives are not messages."""
        return [
            self._copy("pack", layer, step.kind, step.value, t.region)._replace(
                messages=((t.target, step.tag),)
            )
            for t in step.transfers
            if t.target != HOST
        ]

    def _receive(self, step: Receive, layer: str) -> list[_Task]:
        """Return tasks that read a part of the image, or wait for messages and unpack them."""
        whole = self._copy("unpack", layer, step.kind, step.value, step.region)
        if any(t.source == HOST for t in step.transfers):
            return [whole._replace(kind="read")]
        arriving = sum(value_bytes(self.plan, step.value, t.region) for t in step.transfers)
        messages = tuple((t.source, step.tag) for t in step.transfers)
        return [
            _Task("wait", layer, step.kind, 0.0, arriving, messages),
            whole._replace(bytes=arriving),
        ]
