"""Measures this machine, or each rank of a cluster, for simulations; keeps the figures in a file.

Ranks time a small network of operators (see `spnb.benchmarking.probe`), and messages to each other.
On this machine as many ranks as it has cores compute at the same time, as in a run; on a running
cluster one rank after another does.
"""

from __future__ import annotations

import datetime
import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from ..display.cards import Card, Shown, Table, size_text, time_text
from ..display.progress import Bar
from ..errors import OptionError
from ..ir.cost import Machine, speed_of
from ..ir.node import Node
from ..ir.program import Compute
from ..job.job import Job
from ..job.job_plan import JobPlan
from ..job.machines import MeasuredMachine, machine_file
from ..kernels.cores import num_cores
from .probe import Link, Probe, ProbePlans, RankTimes, link_with, timed

if TYPE_CHECKING:
    from ..driver.cluster import Cluster

MOST_RANKS = 8
"""Most ranks that are started: more cores are not loaded at the same time."""

LONGER = 3
"""On small images, a call tells a speed if it takes so many times as long as the shortest one."""

ELEMENTWISE = ("add", "mul", "relu", "sigmoid", "cat")
"""Operators that are bound by memory traffic; the slowest speeds of theirs are the memory's."""


@dataclass(frozen=True, eq=False, repr=False)
class Calibration(Shown):
    """What was measured, and where it is kept.

    Attributes
    ----------
    measured
        The figures of the machine: those of the slowest rank, and of the slowest link.
    ranks
        The figures of each rank.
    links
        Of each rank but the first, its link with rank 0.
    path
        The file.
    """

    measured: MeasuredMachine
    ranks: tuple[Machine, ...]
    links: tuple[Link, ...]
    path: Path

    @property
    def machine(self) -> Machine:
        """The machine whose cores all ranks share: what ``machine="here"`` names."""
        return self.measured.shared()

    @property
    def card(self) -> Card:
        """The figures of each rank, in words."""
        links = [None, *self.links]
        rows = [
            (
                str(rank),
                f"{each.flops / 1e9:.3g}",
                f"{size_text(each.memory)}/s",
                time_text(each.launch),
                f"{each.recorded:.2f} and {each.backward:.2f}",
                time_text(link.latency) if link else "",
                f"{size_text(link.bandwidth)}/s" if link else "",
            )
            for rank, (each, link) in enumerate(zip(self.ranks, links, strict=True))
        ]
        headings = (
            *("rank", "Gflop/s", "memory", "an operator", "training: forward, backward"),
            *("to rank 0", "bandwidth"),
        )
        speeds = len(self.measured.machine.speeds)
        facts = [
            f"{speeds} speeds of operators on one core; {self.measured.machine.cores} cores",
            f"kept in {self.path}: simulations use it from now on",
        ]
        return Card(self.measured.origin, [Table(headings, rows), *facts])


def calibrate(
    cluster: Cluster | None = None, *, path: str | Path | None = None, progress: bool = True
) -> Calibration:
    """Measure this machine, or each rank of a running cluster, and keep the figures in a file.

    `spnb.tune`, `spnb.compare`, ``plan.simulate()`` and the explorer use them from then on.

    Parameters
    ----------
    cluster
        A running cluster, whose ranks are measured one after another; its plan stays loaded.  By
        default ranks are started on this machine, and stopped at the end; it takes some 10 seconds.
    path
        The file; by default the user's own (see `spnb.job.machines.machine_file`).
    progress
        Whether to show a progress bar.

    Returns
    -------
    Calibration
        The figures of each rank, the machine, and the file.

    Raises
    ------
    OptionError
        If the cluster is stopped, or the file cannot be written.

    Examples
    --------
    ::

        spnb.calibrate()
        spnb.plan("resnet", image_size=1024, tiles=4).simulate("here")
    """
    from ..driver.cluster import Cluster

    file = machine_file() if path is None else Path(path)
    plans = ProbePlans.made()
    with Bar(progress) as bar:
        if cluster is not None:
            if cluster.stopped:
                raise OptionError("the cluster is stopped: start another one, or give none")
            ranks, links, hosts = _of_ranks(cluster, plans, bar, together=False)
        else:
            job = Job("w1", image_size=32, batch_size=1, split_size=1)
            count = max(2, min(num_cores(), MOST_RANKS))
            started = JobPlan(job.replace(num_spatial_parts=count))
            bar.show("starting ranks", 0, 1)
            with Cluster(started, progress=False) as own:
                ranks, links, hosts = _of_ranks(own, plans, bar, together=num_cores() > 1)
    slowest = max(ranks, key=lambda each: 1 / each.flops)
    machine = replace(
        slowest,
        cores=num_cores(),
        latency=max(link.latency for link in links) if links else Machine.latency,
        link=min(link.bandwidth for link in links) if links else Machine.link,
    )
    measured = MeasuredMachine(
        machine=machine,
        host=hosts[ranks.index(slowest)],
        processor=platform.processor() or platform.machine(),
        torch_version=torch.__version__,
        day=datetime.date.today().isoformat(),
    )
    measured.write(file)
    return Calibration(measured, tuple(ranks), tuple(links), file)


def _of_ranks(
    cluster: Cluster, plans: ProbePlans, bar: Bar, together: bool
) -> tuple[list[Machine], list[Link], tuple[str, ...]]:
    """The figures of each rank, and of its link with rank 0, and the hosts."""
    hosts, probe = cluster.engines.hosts, plans.probe
    count = cluster.plan.num_ranks if together else len(hosts)
    turns: list[list[Probe | None]] = [
        [probe if k == rank else None for k in range(count)] for rank in range(count)
    ]
    if together:
        turns = [[probe] * count]
    times: list[RankTimes] = []
    for number, turn in enumerate(turns):
        bar.show("timing operators", number, len(turns))
        found = cluster.engines.call(_timed_here, [(each, together) for each in turn])
        times += [each for each in found if each is not None]
    links: list[Link] = []
    for other in range(1, count):
        bar.show("timing messages", other, count)
        answers = cluster.engines.call(_linked_here, [(other,)] * count)
        links += [each for each in answers if each is not None]
    return [_fitted(plans, each) for each in times], links, hosts


def _timed_here(probe: Probe | None, together: bool) -> RankTimes | None:
    """On a rank: time the network; None if it is not this rank's turn."""
    if together:
        from ..engine.here import here

        assert here.transport is not None  # the ranks were started with a plan
        here.transport.barrier()
    return None if probe is None else timed(probe)


def _linked_here(other: int) -> Link | None:
    """On a rank: time messages between rank 0 and another."""
    from ..engine import remote

    return link_with(other, remote.connected())


def _fitted(plans: ProbePlans, times: RankTimes) -> Machine:
    """The machine on which the network would have taken so long."""
    calls = {size: _calls(plan) for size, plan in plans.by_size.items()}
    smallest = min(calls)
    call = min(times.operators[smallest])  # nothing but its launch
    speeds = [
        # A short call may take no longer than the shortest one, which is no speed.
        speed_of(node, max(seconds - call, seconds / LONGER))
        for size, nodes in calls.items()
        for node, seconds in zip(nodes, times.operators[size], strict=True)
        if seconds > LONGER * call or size == max(calls)
    ]
    moving = [s.rate for s in speeds if s.kind in ELEMENTWISE]
    convolutions = [s.rate for s in speeds if s.kind.startswith("conv")]
    machine = Machine(
        flops=math.exp(sum(map(math.log, convolutions)) / len(convolutions)),
        memory=median(moving),
        launch=call + times.between,
        speeds=tuple(speeds),
    )
    foreseen = sum(machine.seconds(node) for node in _calls(plans.trained))
    return replace(machine, recorded=times.forward / foreseen, backward=times.backward / foreseen)


def _calls(plan: JobPlan) -> list[Node]:
    """The calls of a plan of one rank, in order."""
    (program,) = plan.programs(0, 1)
    nodes: Sequence[Any] = plan.stages[0].nodes
    return [nodes[step.node] for step in program.steps if isinstance(step, Compute)]
