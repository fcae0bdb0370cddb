"""Simulates a plan: the operations of each rank with their times, on a machine of a few numbers.

Every rank's program runs with durations in place of tensors (see `spnb.analysis.rank_tasks`).  A
rank that waits continues when its message arrives.  So the simulation is also a proof: it ends only
if every receive has its send, and if no two ranks wait for each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ..ir.cost import CORE, Machine
from ..ir.replicas import turns_of
from ..ir.schedule import SCHEDULES, RankPass, at_once, in_turns
from ..planner.plan import Plan
from ..runtime import trace
from ..runtime.trace import Event
from .event_clock import Clock, Pause
from .rank_tasks import RankTasks, Task
from .untiled import untiled

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class Simulation:
    """The time that a plan would take, and the operations of each rank with their times.

    Attributes
    ----------
    plan
        The plan that was simulated.
    machine
        The cost model: the device of each rank, and the links.
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
            f" ({self.machine.name})"
        )


def simulate(plan: Plan, machine: Machine = CORE) -> Simulation:
    """Run a plan's programs on a clock.

    Parameters
    ----------
    plan
        A plan of any number of ranks; a thousand ranks take some seconds.
    machine
        The device of each rank, and the links.  Ranks have a core each, unless ``cores`` is set.

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
    clock = Clock(machine)
    ranks = [_Rank(plan, rank, machine, clock) for rank in range(plan.num_ranks)]
    clock.run(ranks)
    waiting = clock.waiting
    assert not waiting, f"ranks {waiting} wait for messages no rank sends"
    assert not clock.arrivals, f"no rank receives the messages {sorted(clock.arrivals)[:3]}"
    return Simulation(plan, machine, tuple(tuple(rank.events) for rank in ranks))


def seconds_by_stage(plan: Plan, machine: Machine = CORE) -> float:
    """Foresee the seconds of a plan from one rank of each stage, which stands for all of them.

    It is the rank in the middle of the stage's grid, which has the most neighbours.  Messages to
    and from the others of its stage are those to and from itself.  So a plan of many ranks takes no
    longer than one of a few; the seconds differ a little from those of `simulate`.

    Parameters
    ----------
    plan
        A plan without mirrored replicas.
    machine
        As of `simulate`.

    Examples
    --------
    >>> import spnb
    >>> plan = spnb.plan(spnb.Job("resnet20_v1", image_size=256, batch_size=1, tiles=9))
    >>> 0.8 < seconds_by_stage(plan) / simulate(plan).seconds < 1.25
    True
    """
    teams = [stage.team for stage in plan.stages]
    middle = [team.rank_at([n // 2 for n in team.tiling.grid]) for team in teams]
    stand_ins = {rank: middle[plan.stage_of(rank).index] for rank in range(plan.num_ranks)}
    clock = Clock(machine)
    ranks = [_Rank(plan, rank, machine, clock, stand_ins) for rank in middle]
    clock.run(ranks)
    if clock.waiting:  # of some exchange, the rank in the middle sends nothing
        return simulate(plan, machine).seconds
    return max(rank.events[-1].stop for rank in ranks)


class _Rank:
    """One simulated rank.

    Attributes
    ----------
    rank
        Number of the rank.
    threads
        Cores that its operators use, if they are free.
    cores
        The same of all ranks that it stands for.
    """

    def __init__(
        self,
        plan: Plan,
        rank: int,
        machine: Machine,
        clock: Clock,
        stand_ins: Mapping[int, int] | None = None,
    ):
        self.plan, self.rank, self.machine, self.clock = plan, rank, machine, clock
        self._stand_ins = stand_ins  # by rank, the one that is simulated in its place
        self.events: list[Event] = []
        self.link_free = 0.0
        self.stage = self.number = 0
        self.threads = max(1, (machine.cores or 1) // _at_once(plan, rank))
        alike = 1 if stand_ins is None else list(stand_ins.values()).count(rank)
        self.cores = alike * self.threads

    def run(self) -> Iterator[Pause]:
        """Run the programs; yield seconds of work, and messages that have not arrived."""
        plan, sizes = self.plan, set(self.plan.micro_batch_sizes)
        plan_ranks = plan.plan_ranks_of(self.rank)
        pipelines = plan.replicas.of(plan.replica_of(self.rank))
        tasks = [{n: self._tasks(rank, n) for n in sizes} for rank in plan_ranks]
        stages = [plan.stage_of(plan_rank).index for plan_rank in plan_ranks]
        for pipeline, kind, number in self._passes(stages):
            self.stage, self.number = stages[pipeline], number
            for task in tasks[pipeline][plan.micro_batch_sizes[number]][kind]:
                yield from self._follow(task, pipelines[pipeline].ranks)
        if plan.graph.training:
            for plan_rank in plan_ranks:
                of_rank = RankTasks(plan, plan_rank, plan.micro_batch_sizes[0], self.machine)
                for task in of_rank.sums():
                    yield from self._follow(task, ())

    def _passes(self, stages: Sequence[int]) -> list[RankPass]:
        """The passes of this rank, in the order in which a run takes them."""
        turns = turns_of(self.plan.replicas.of(self.plan.replica_of(self.rank)), stages)
        if self.plan.graph.training:
            return in_turns(SCHEDULES[self.plan.schedule], len(self.plan.stages), turns)
        return [RankPass(t.pipeline, "forward", n) for t in at_once(turns) for n in t.numbers]

    def _tasks(self, plan_rank: int, images: int) -> dict[str, list[Task]]:
        tasks = RankTasks(self.plan, plan_rank, images, self.machine)
        found = {"forward": tasks.forward()}
        if self.plan.graph.training:
            found["backward"] = tasks.backward()
        return found

    def _follow(self, task: Task, world: Sequence[int]) -> Iterator[Pause]:
        """Take the time of a task; send or await its messages."""
        start = self.clock.now
        if task.seconds:
            yield task.seconds
        if task.kind == "pack":
            self._send(task, world)
        elif task.kind == "wait":
            for source, tag in task.messages:
                key = (self._simulated(world[source]), self.rank, tag, self.number)
                while self.clock.arrivals.get(key, math.inf) > self.clock.now:
                    yield key
                if self._stand_ins is None:
                    del self.clock.arrivals[key]
        place = (self.stage, self.number, task.layer, task.kind, task.what)
        self.events.append(Event(*place, start, self.clock.now, task.bytes))

    def _simulated(self, rank: int) -> int:
        """The rank that is simulated in the place of a rank."""
        return rank if self._stand_ins is None else self._stand_ins[rank]

    def _send(self, task: Task, world: Sequence[int]) -> None:
        """Send a packed message, after the messages that the link still carries."""
        ((target, tag),) = task.messages
        start = max(self.clock.now, self.link_free)
        self.link_free = start + task.bytes / self.machine.link
        key = (self.rank, self._simulated(world[target]), tag, self.number)
        self.clock.send(key, self.link_free + self.machine.latency)


def _at_once(plan: Plan, rank: int) -> int:
    """Ranks that may compute at the same time: with one micro-batch, those of one stage."""
    if plan.replicas.micro_batches == 1 and not plan.replicas.times:
        ranks = plan.stage_of(rank % plan.replicas.ranks_each).team.ranks
        return len(ranks) * plan.replicas.count
    return plan.num_ranks
