"""How fast a split network is, against what a user with one machine would run instead.

Everything is measured in one run, round after round (A B C A B C …), so that what else the machine
does falls on all alike; a ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from .baselines import BASELINES, BaselineProcess, Unavailable
from .cards import Card, Shown, Table, size_text, time_text
from .options import Job
from .planning import JobPlan, plan
from .program import Part, without_exchange
from .progress import Bar
from .region import Region
from .sources import ArraySource
from .values import OptionError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LIMIT = "no exchange"
"""The same tiles with no message between ranks."""


class Alone(JobPlan):
    """A plan whose ranks send each other nothing: its time is the limit of the plan's own."""

    def __init__(self, planned: JobPlan):
        self.__dict__.update(planned.__dict__)

    def part(self, rank: int) -> Part:
        found = super().part(rank)
        programs = {images: without_exchange(p) for images, p in found.programs.items()}
        return replace(found, programs=programs)


@dataclass(frozen=True, eq=False, repr=False)
class Bench(Shown):
    """Seconds of a step, round by round.

    Attributes
    ----------
    plan
        What spnb ran.
    seconds
        Of each contestant, a step in each round; ``"spnb"`` is the plan.
    prepare
        Seconds that a baseline took to get ready, its compilation included.
    peak_bytes
        Most memory of a baseline's process above its idle one, and of spnb's largest rank.
    skipped
        Why a baseline could not be measured.
    """

    plan: JobPlan
    seconds: Mapping[str, tuple[float, ...]]
    prepare: Mapping[str, float]
    peak_bytes: Mapping[str, int]
    skipped: Mapping[str, str]

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row for each contestant: seconds of a step, and how many times as long as spnb's."""
        frame = pd.DataFrame(dict(self.seconds))
        ratios = frame.div(frame["spnb"], axis=0)
        peaks = {name: size for name, size in self.peak_bytes.items() if size > 0}
        return pd.DataFrame(
            {
                "ratio": ratios.median(),
                "lowest": ratios.min(),
                "highest": ratios.max(),
                "seconds": frame.median(),
                "prepare": pd.Series(self.prepare, dtype=float),
                "peak_bytes": pd.Series(peaks, dtype=float),
            },
            index=list(frame),
        )

    @property
    def card(self) -> Card:
        """The table, in words."""
        rows = [
            (
                name,
                f"{row.ratio:.2f}×",
                f"{row.lowest:.2f}–{row.highest:.2f}",
                time_text(row.seconds),
                time_text(row.prepare) if row.prepare == row.prepare else "–",
                size_text(row.peak_bytes) if row.peak_bytes == row.peak_bytes else "–",
            )
            for name, row in self.table.iterrows()
        ]
        rounds = len(self.seconds["spnb"])
        size = "×".join(map(str, self.plan.job.input_shape))
        headings = ("", "takes, of spnb's time", "in rounds", "a step", "to prepare", "memory")
        title = (
            f"{self.plan.job.name} on {size}, {self.plan.num_ranks} ranks,"
            f" {os.cpu_count()} cores, {rounds} rounds"
        )
        left_out = [f"not measured: {name}: {why}" for name, why in self.skipped.items()]
        return Card(title, [Table(headings, rows), *left_out])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw how many times as long as spnb's a step of each contestant takes."""
        from . import plots

        return plots.ratios(self.table, ax)

    def report(self) -> dict[str, Any]:
        """Every figure, ready for JSON."""
        table = self.table
        return {
            "job": {"model": self.plan.job.name, **self.plan.job.values()},
            "ranks": self.plan.num_ranks,
            "cores": os.cpu_count(),
            "machine": platform.machine(),
            "torch": torch.__version__,
            "ratios": table["ratio"].to_dict(),
            "seconds": {name: list(each) for name, each in self.seconds.items()},
            "prepare_seconds": dict(self.prepare),
            "peak_memory_bytes": dict(self.peak_bytes),
            "skipped": dict(self.skipped),
        }


def bench(
    job: Job,
    baselines: Sequence[str] | None = None,
    rounds: int = 5,
    progress: bool = True,
) -> Bench:
    """Measure a job against baselines in one process, and against the same ranks without messages.

    Parameters
    ----------
    job
        What to run; on random numbers.
    baselines
        Names in `spnb.baselines.BASELINES`; all of them by default.  One that cannot run here is
        left out, and the result says why.
    rounds
        Steps of each contestant.
    progress
        Show a bar.

    Raises
    ------
    OptionError
        If a baseline is unknown, or there are no rounds.

    Examples
    --------
    ::

        spnb.bench(spnb.Job("resnet50", image_size=512, batch_size=1, split_size=1)).plot()
    """
    names = list(BASELINES) if baselines is None else list(baselines)
    for name in names:
        if name not in BASELINES:
            raise OptionError(f"unknown baseline {name!r}: use some of {', '.join(BASELINES)}")
    if rounds < 1:
        raise OptionError(f"rounds is {rounds}, but must be at least 1")
    planned = plan(job)
    from .cluster import Cluster  # starts engines, which planning shall not need

    skipped: dict[str, str] = {}
    processes: dict[str, BaselineProcess] = {}
    with ExitStack() as stack:
        bar = stack.enter_context(Bar(progress))
        for number, name in enumerate(names):
            bar.show("prepare", number, len(names), name)
            try:
                processes[name] = BaselineProcess(name, job)
                stack.callback(processes[name].stop)
            except Unavailable as error:
                skipped[name] = str(error)
        cluster = stack.enter_context(Cluster(planned, progress=False))
        image = None
        if len(planned.graph.inputs) == 1:  # in memory, as the baselines have it
            extent = Region.whole(planned.graph.extent(*planned.graph.inputs))
            image = ArraySource(planned.open().read(extent), "noise")
        plans = {"spnb": planned, LIMIT: Alone(planned)}
        seconds: dict[str, list[float]] = {name: [] for name in [*plans, *processes]}
        peaks: dict[str, int] = {}
        for number in range(rounds):
            bar.show("rounds", number, rounds)
            for name, each in plans.items():
                cluster.load(each)
                cluster.infer(image)  # ranks are warm, as the baselines are
                result = cluster.infer(image)
                seconds[name].append(result.seconds["step"])
                peak = max(report.peak_memory_bytes for report in result.reports)
                peaks[name] = max(peak, peaks.get(name, 0))
            for name, process in processes.items():
                seconds[name].append(process.step())
        peaks |= {name: process.peak_bytes() for name, process in processes.items()}
        prepare = {name: process.prepare_seconds for name, process in processes.items()}
    return Bench(planned, {n: tuple(each) for n, each in seconds.items()}, prepare, peaks, skipped)
