"""A plan on a clock: what each rank would do when, on a machine that is a few numbers.

Every rank's program is run with durations in place of tensors.  A rank that waits is resumed by
the message it waits for, so the simulation is also a proof: it ends only if every receive has its
send, and no two ranks wait for each other.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..ir.cost import CORE, Machine
from ..ir.exchange import HOST
from ..ir.program import Compute, Keep, Receive, Send
from ..ir.replicas import turns_of
from ..ir.schedule import at_once
from ..planner.needs import extent_in
from ..planner.plan import Plan
from ..runtime import trace
from ..runtime.trace import Event
from .survey import untiled

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Key = tuple[int, int, int, int]
"""Of a message: source, target, tag, micro-batch."""


@dataclass(frozen=True, eq=False)
class Simulation:
    """What a plan would take, and when each rank would do what.

    Attributes
    ----------
    plan, machine
        What was simulated on what.
    events
        Of each rank, as a run records them.
    """

    plan: Plan
    machine: Machine
    events: tuple[tuple[Event, ...], ...]

    @property
    def seconds(self) -> float:
        """From the start to the last event of any rank."""
        return max((each[-1].stop for each in self.events if each), default=0.0)

    @cached_property
    def untiled_seconds(self) -> float:
        """The same network and batch on one rank of the same machine."""
        return simulate(untiled(self.plan), self.machine).seconds

    @property
    def speedup(self) -> float:
        """How many times faster than one rank."""
        return self.untiled_seconds / self.seconds

    @cached_property
    def timings(self) -> pd.DataFrame:
        """Every event of every rank, as `spnb.driver.result.Result.timings` has them."""
        return trace.table(enumerate(self.events))

    def plot_timeline(self, ax: Axes | None = None) -> Axes:
        """Draw what each rank would do when; see `spnb.display.plots.timeline`."""
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
        For any number of ranks: a thousand take some seconds.
    machine
        What each rank has to itself.  Ranks that share cores take longer than this tells.

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
    assert not waiting, f"ranks {sorted(set(waiting.values()))} wait for messages nobody sends"
    assert not arrivals, f"nobody receives the messages {sorted(arrivals)[:3]}"
    return Simulation(plan, machine, tuple(tuple(rank.events) for rank in ranks))


class _Rank:
    """One rank on its clock."""

    def __init__(self, plan: Plan, rank: int, machine: Machine):
        self.plan, self.rank, self.machine = plan, rank, machine
        self.events: list[Event] = []
        self.now = self.link_free = 0.0
        self.stage = self.number = 0

    def run(self, arrivals: dict[Key, float]) -> Iterator[tuple[Key | None, Key | None]]:
        """Yields each message that is sent, and each that must be there to go on."""
        plan, sizes = self.plan, set(self.plan.micro_batch_sizes)
        images, pipelines = (
            plan.plan_ranks_of(self.rank),
            plan.replicas.of(plan.replica_of(self.rank)),
        )
        stages = [plan.stage_of(image) for image in images]
        programs = [{n: self._steps(image, n) for n in sizes} for image in images]
        turns = at_once(turns_of(pipelines, [stage.index for stage in stages]))
        for copy, self.stage, number in ((c, stage, n) for c, stage, turn in turns for n in turn):
            self.number, world = number, pipelines[copy].ranks
            steps = programs[copy][plan.micro_batch_sizes[number]]
            for kind, layer, what, seconds, size, messages in steps:
                if kind == "wait":
                    start = latest = self.now
                    for source, tag in messages:
                        key = (world[source], self.rank, tag, number)
                        while key not in arrivals:
                            yield None, key
                        latest = max(latest, arrivals.pop(key))
                    self._note("wait", layer, what, start, latest, size)
                    continue
                self._note(kind, layer, what, self.now, self.now + seconds, size)
                if kind == "pack":
                    ((target, tag),) = messages
                    self.link_free = max(self.now, self.link_free) + size / self.machine.link
                    key = (self.rank, world[target], tag, number)
                    arrivals[key] = self.link_free + self.machine.latency
                    yield key, None

    def _note(self, kind: str, layer: str, what: str, start: float, stop: float, size: int) -> None:
        place = (self.stage, self.number)
        self.events.append(Event(*place, layer, kind, what, start, stop, size))
        self.now = stop

    def _steps(self, rank: int, images: int) -> list[tuple[Any, ...]]:
        """A program of a rank of the plan, reduced to what takes time."""
        plan, machine, found = self.plan, self.machine, []
        graph, stage = plan.graph, plan.stage_of(rank)
        paths = stage.paths(graph)
        steps = (s for each in plan.programs(rank, images) for s in each.steps)
        for step in steps:
            if isinstance(step, Compute):
                node = stage.nodes[step.node]
                share = step.region.size / math.prod(extent_in(graph, node.name, graph.batch))
                seconds = machine.seconds(node, share) if share else 0.0
                found.append(("compute", node.path, node.kind, seconds, 0, ()))
                continue
            if not isinstance(step, (Send, Receive, Keep)):
                continue
            layer = paths.get(step.value, step.value)
            bytes_each = graph.channels(step.value) * graph.itemsize(step.value)
            if isinstance(step, Keep):
                size = step.own.size * bytes_each
                found.append(("unpack", layer, "patch", size / machine.memory, size, ()))
                continue
            sizes = [(t, t.region.size * bytes_each) for t in step.transfers]
            if isinstance(step, Send):
                for t, size in sizes:
                    if t.target != HOST:
                        seconds, message = size / machine.memory, ((t.target, step.tag),)
                        found.append(("pack", layer, step.kind, seconds, size, message))
                continue
            size = step.region.size * bytes_each
            if any(t.source == HOST for t in step.transfers):
                found.append(("read", layer, step.kind, size / machine.memory, size, ()))
                continue
            arriving = sum(size for _, size in sizes)
            messages = tuple((t.source, step.tag) for t in step.transfers)
            found.append(("wait", layer, step.kind, 0.0, arriving, messages))
            found.append(("unpack", layer, step.kind, size / machine.memory, arriving, ()))
        return found
