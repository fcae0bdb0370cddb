"""Sets what a simulation foresees of many splits beside what their runs take on this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from ..display.cards import Card, Shown, Table, size_text, time_text
from ..display.progress import Bar
from ..ir.cost import Machine
from ..job.job import Job
from ..job.job_plan import JobPlan, plan
from ..job.machines import HERE, MachineLike, machine_of
from ..job.parsing import refuse_out_of_range
from . import FORESEEN_SPLITS, FORESEEN_WORKLOADS, MOST_ROUNDS
from .measure import image_in_memory

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BATCH = 2
"""Images in a batch: two micro-batches need two."""

BEST = 3
"""The fastest split should be among so many that are foreseen to be the fastest."""


@dataclass(frozen=True, eq=False, repr=False)
class Foreseen(Shown):
    """Seconds and memory of splits, foreseen and measured.

    Attributes
    ----------
    machine
        The machine of the simulation.
    table
        A row for each ``workload`` and ``split``: ``ranks``; ``foreseen`` and ``measured`` seconds
        of a batch; ``foreseen_bytes`` and ``measured_bytes`` of the rank that needs most.
    """

    machine: Machine
    table: pd.DataFrame

    @property
    def time_error(self) -> float:
        """The median error of foreseen seconds, as a share of the measured ones."""
        return float((self.table.foreseen / self.table.measured - 1).abs().median())

    @property
    def memory_error(self) -> float:
        """The median error of foreseen memory, as a share of the measured one."""
        return float((self.table.foreseen_bytes / self.table.measured_bytes - 1).abs().median())

    @property
    def places(self) -> Mapping[str, int]:
        """By workload, the place of the fastest split among those foreseen, from 1."""
        found = {}
        for workload, rows in self.table.groupby("workload", sort=False):
            order = rows.foreseen.rank(method="min")
            found[str(workload)] = int(order[rows.measured.idxmin()])
        return found

    @property
    def card(self) -> Card:
        """The table, in words."""
        rows = [
            (
                row.workload,
                row.split,
                str(row.ranks),
                time_text(row.foreseen),
                time_text(row.measured),
                f"{row.foreseen / row.measured:.2f}",
                size_text(row.foreseen_bytes),
                size_text(row.measured_bytes),
                f"{row.foreseen_bytes / row.measured_bytes:.2f}",
            )
            for row in self.table.itertuples()
        ]
        times, memory = ("foreseen", "measured", "ratio"), ("memory foreseen", "measured", "ratio")
        found = sum(place <= BEST for place in self.places.values())
        facts = [
            f"simulated on {self.machine.name}",
            f"median error: {self.time_error:.0%} of the time, {self.memory_error:.0%} of the"
            " memory",
            f"the fastest split is among the foreseen best {BEST} for {found} of"
            f" {len(self.places)} networks",
        ]
        title = f"{len(rows)} splits, foreseen and measured; {os.cpu_count()} cores"
        return Card(title, [Table(("", "split", "ranks", *times, *memory), rows), *facts])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw measured over foreseen seconds; see `spnb.display.plots.front.foreseen`."""
        from ..display import plots

        return plots.foreseen(self.table, ax)

    def report(self) -> dict[str, Any]:
        """Return every figure, ready for JSON; times in seconds, memory in bytes."""
        return {
            "machine": self.machine.name,
            "cores": os.cpu_count(),
            "torch": torch.__version__,
            "time_error": self.time_error,
            "memory_error": self.memory_error,
            "places": dict(self.places),
            "benches": self.table.to_dict("records"),
        }


def foreseen(
    workloads: Mapping[str, int] | Sequence[str] = FORESEEN_WORKLOADS,
    rounds: int = 3,
    machine: MachineLike = HERE,
    progress: bool = True,
) -> Foreseen:
    """Foresee the time and the memory of splits, and run them.

    Parameters
    ----------
    workloads
        Names of built-in networks, and sides of their square images; of a list of names, each has
        the side of the default, or 256.
    rounds
        Timed runs of each split after the first one, whose memory is measured; the median counts.
    machine
        As of `spnb.job.job_plan.JobPlan.simulate`; by default this machine, which must have been
        measured, with its cores shared.
    progress
        Whether to show a progress bar.

    Returns
    -------
    Foreseen
        Both figures of each split.

    Raises
    ------
    OptionError
        If this machine was not measured, or there are no rounds.
    """
    model = machine_of(machine)
    refuse_out_of_range("rounds", rounds, 1, MOST_ROUNDS)
    if not isinstance(workloads, Mapping):
        workloads = {name: FORESEEN_WORKLOADS.get(name, 256) for name in workloads}
    rows: list[dict[str, Any]] = []
    with Bar(progress) as bar:
        for number, (workload, size) in enumerate(workloads.items()):
            bar.show("networks", number, len(workloads), workload)
            rows += _of_workload(Job(workload, image_size=size, batch_size=BATCH), rounds, model)
    return Foreseen(model, pd.DataFrame(rows))


def _of_workload(job: Job, rounds: int, machine: Machine) -> list[dict[str, Any]]:
    """The figures of all splits of a network."""
    from ..driver.cluster import Cluster

    rows = []
    for name, options in FORESEEN_SPLITS.items():
        each = plan(job.replace(**options))
        # New engines: what one took for another plan might stay with it.
        with Cluster(each, progress=False) as cluster:
            image = image_in_memory(each)
            first = cluster.infer(image)
            peak = int(first.per_rank.peak_memory_bytes.max())
            seconds = median(cluster.infer(image).seconds["step"] for _ in range(rounds))
        rows.append(_row(job, name, each, machine, seconds, peak))
    return rows


def _row(
    job: Job, name: str, planned: JobPlan, machine: Machine, seconds: float, peak: int
) -> dict[str, Any]:
    return {
        "workload": job.name,
        "size": planned.extent[0],
        "split": name,
        "ranks": planned.num_ranks,
        "foreseen": planned.simulate(machine).seconds,
        "measured": seconds,
        "foreseen_bytes": max(planned.memory_bytes),
        "measured_bytes": peak,
    }
