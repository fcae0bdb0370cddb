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
from statistics import median
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from ..display.cards import Card, Shown, Table, size_text, time_text
from ..display.progress import Bar
from ..errors import OptionError
from ..io.sources import ArraySource
from ..ir.program import without_exchange
from ..ir.rank_plan import RankPlan
from ..ir.region import Region
from ..job.job import Job
from ..job.job_plan import JobPlan, plan
from .baselines import BASELINES, BaselineProcess, Unavailable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..driver.result import Result

LIMIT = "no exchange"
"""The same tiles with no message between ranks."""

SOLO = "one rank, one thread"
"""The whole image on a single rank that has one core."""


class Alone(JobPlan):
    """A plan whose ranks send each other nothing: its time is the limit of the plan's own."""

    def __init__(self, planned: JobPlan):
        self.__dict__.update(planned.__dict__)

    def rank_plan(self, rank: int) -> RankPlan:
        return self._alone(super().rank_plan(rank))

    def _alone(self, rank_plan: RankPlan) -> RankPlan:
        programs = {n: tuple(map(without_exchange, each)) for n, each in rank_plan.programs.items()}
        mirror = rank_plan.mirror and self._alone(rank_plan.mirror)
        return replace(rank_plan, programs=programs, mirror=mirror)


class Solo(JobPlan):
    """A job's whole network and image on one rank with one thread."""

    def __init__(self, job: Job):
        one = {"split_size": 1, "spatial_size": 1, "num_spatial_parts": 1, "local_DP": 1}
        one |= {"parts": job.num_micro_batches, "replicas": 1, "gems": False, "times": 1}
        super().__init__(job.replace(**one, slice_method="square", balance=None))

    def rank_plan(self, rank: int) -> RankPlan:
        return replace(super().rank_plan(rank), threads=1)


@dataclass
class Measured:
    """What `measure` found, by contestant.

    Attributes
    ----------
    seconds
        A step in each round.
    exchange
        Share of a step that the rank which exchanges longest packs, waits and unpacks: by round.
    sent
        Bytes that ranks sent each other.
    prepare
        Seconds that a baseline took to get ready, its compilation included.
    peaks
        Most memory of a baseline's process above its idle one, and of a plan's largest rank.
    skipped
        Why a baseline could not be measured.
    """

    seconds: dict[str, list[float]]
    exchange: dict[str, list[float]]
    sent: dict[str, int]
    prepare: dict[str, float]
    peaks: dict[str, int]
    skipped: dict[str, str]


def measure(plans: Mapping[str, JobPlan], names: Sequence[str], rounds: int, bar: Bar) -> Measured:
    """Let plans of one network and image, and baselines, take turns on this machine.

    Parameters
    ----------
    plans
        By what they are called; each takes its turn on the same engines.
    names
        Baselines.
    rounds
        Steps of each.
    bar
        Shows how far it is.
    """
    from ..driver.cluster import Cluster  # starts engines, which planning shall not need

    largest = max(plans.values(), key=lambda each: each.num_ranks)
    found = Measured({name: [] for name in plans}, {name: [] for name in plans}, {}, {}, {}, {})
    processes: dict[str, BaselineProcess] = {}
    with ExitStack() as stack:
        for number, name in enumerate(names):
            bar.show("prepare", number, len(names), name)
            try:
                processes[name] = BaselineProcess(name, largest.job)
                stack.callback(processes[name].stop)
                found.seconds[name] = []
            except Unavailable as error:
                found.skipped[name] = str(error)
        cluster = stack.enter_context(Cluster(largest, progress=False))
        image = None
        if len(largest.graph.inputs) == 1:  # in memory, as the baselines have it
            extent = Region.whole(largest.graph.extent(*largest.graph.inputs))
            image = ArraySource(largest.open().read(extent), "noise")
        for number in range(rounds):
            bar.show("rounds", number, rounds)
            for name, each in plans.items():
                cluster.load(each)
                cluster.infer(image)  # ranks are warm, as the baselines are
                _note(found, name, cluster.infer(image))
            for name, process in processes.items():
                found.seconds[name].append(process.step())
        found.peaks |= {name: process.peak_bytes() for name, process in processes.items()}
        found.prepare |= {name: process.prepare_seconds for name, process in processes.items()}
    return found


def _note(found: Measured, name: str, result: Result) -> None:
    """Add what a step showed."""
    ranks, step = result.per_rank, result.seconds["step"]
    found.seconds[name].append(step)
    found.exchange[name].append((ranks.pack_s + ranks.wait_s + ranks.unpack_s).max() / step)
    found.sent[name] = int(ranks.bytes_sent.sum())
    peak = int(ranks.peak_memory_bytes.max())
    found.peaks[name] = max(peak, found.peaks.get(name, 0))


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
    exchange
        Share of a step that ranks pack, wait and unpack, of the one that does so longest; median.
    sent
        Bytes that ranks sent each other.
    """

    plan: JobPlan
    seconds: Mapping[str, tuple[float, ...]]
    prepare: Mapping[str, float]
    peak_bytes: Mapping[str, int]
    skipped: Mapping[str, str]
    exchange: float = 0.0
    sent: int = 0

    @classmethod
    def of(cls, planned: JobPlan, found: Measured, name: str, limit: str) -> Bench:
        """Of one plan among those that were measured, and of all that are none of spnb's plans."""
        called = {name: "spnb", limit: LIMIT}
        others = [n for n in found.seconds if n not in found.exchange or n == SOLO]
        called |= {other: other for other in others}
        return cls(
            planned,
            {text: tuple(found.seconds[n]) for n, text in called.items()},
            found.prepare,
            {text: found.peaks[n] for n, text in called.items()},
            found.skipped,
            median(found.exchange[name]),
            found.sent[name],
        )

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
        facts = [
            f"pack, wait and unpack: {self.exchange:.1%} of the step; {size_text(self.sent)} sent,"
            f" {size_text(self.plan.totals.bytes)} planned",
            f"memory of the largest rank: {size_text(self.planned_memory)} planned",
        ]
        left_out = [f"not measured: {name}: {why}" for name, why in self.skipped.items()]
        return Card(title, [Table(headings, rows), *facts, *left_out])

    @property
    def planned_memory(self) -> int:
        """Bytes that the plan foresees for its largest rank."""
        return max(self.plan.memory_bytes)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw how many times as long as spnb's a step of each contestant takes."""
        from ..display import plots

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
            "planned_memory_bytes": self.planned_memory,
            "exchange_share": self.exchange,
            "bytes_sent": self.sent,
            "planned_bytes": self.plan.totals.bytes,
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
        Names in `spnb.benchmarking.baselines.BASELINES`; all of them by default.  One that
        cannot run here is left out, and the result says why.
    rounds
        Steps of each contestant.
    progress
        Show a bar.

    Raises
    ------
    OptionError
        If a baseline is unknown, there are no rounds, or ranks would compute on GPUs.

    Examples
    --------
    ::

        spnb.bench(spnb.Job("resnet50", image_size=512, batch_size=1, split_size=1)).plot()
    """
    names = checked(baselines, rounds)
    if job.device_kind != "cpu":
        raise OptionError(
            f"device is {job.device_kind}, but all that a split is measured against runs on the"
            " CPU: leave it out"
        )
    planned = plan(job)
    with Bar(progress) as bar:
        found = measure(contestants(planned, "spnb", LIMIT) | {SOLO: Solo(job)}, names, rounds, bar)
    return Bench.of(planned, found, "spnb", LIMIT)


def checked(baselines: Sequence[str] | None, rounds: int) -> list[str]:
    """The baselines to measure; all where none are given.

    Raises
    ------
    OptionError
        If one is unknown, or there are no rounds.
    """
    for name in baselines or ():
        if name not in BASELINES:
            raise OptionError(f"unknown baseline {name!r}: use some of {', '.join(BASELINES)}")
    if rounds < 1:
        raise OptionError(f"rounds is {rounds}, but must be at least 1")
    return list(BASELINES if baselines is None else baselines)


def contestants(planned: JobPlan, name: str, limit: str) -> dict[str, JobPlan]:
    """A plan, and the same without messages, by what they are called."""
    return {name: planned, limit: Alone(planned)}
