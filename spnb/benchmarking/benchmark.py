"""Compares the time of a split network with that of other ways to run it on one machine.

All contestants take turns (see `spnb.benchmarking.measure`).  A ratio is the median of the ratios
of all rounds.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from ..display.cards import Card, Shown, Table, size_text, time_text
from ..display.progress import Bar
from ..errors import OptionError
from ..job.job import Job
from ..job.job_plan import JobPlan, plan
from ..job.parsing import refuse_out_of_range
from ..kernels.cores import num_cores
from . import MOST_ROUNDS
from .baselines import BASELINES
from .contestants import LIMIT, SOLO, contestants, on_one_thread
from .measure import Measured, measure
from .training_bench import TrainingBench, bench_training

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False, repr=False)
class Bench(Shown):
    """The figures of a benchmark: seconds of a step of each contestant, round by round.

    Attributes
    ----------
    plan
        The plan that spnb ran.
    seconds
        By contestant: seconds of a step, in each round; ``"spnb"`` is the plan.
    prepare
        By baseline: seconds of its preparation, compilation included.
    peak_bytes
        By contestant: most bytes of a baseline's process above its idle state, or of spnb's
        largest rank.
    skipped
        By baseline: the reason why it was not measured.
    exchange
        Share of a step in which a rank packs, waits and unpacks: that of the rank with the largest
        share; the median over the rounds.
    sent
        Bytes that ranks sent each other in a step.
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
        """Return the benchmark of one plan among those that were measured.

        Parameters
        ----------
        planned
            The plan.
        found
            The measured figures.
        name, limit
            Names, in ``found``, of the plan and of the same plan without messages.
        """
        shown_as = {name: "spnb", limit: LIMIT}
        for other in found.seconds:
            is_plan = other in found.exchange
            if not is_plan or other == SOLO:
                shown_as[other] = other
        return cls(
            planned,
            seconds={text: tuple(found.seconds[n]) for n, text in shown_as.items()},
            prepare=found.prepare,
            peak_bytes={text: found.peaks[n] for n, text in shown_as.items()},
            skipped=found.skipped,
            exchange=median(found.exchange[name]),
            sent=found.sent[name],
        )

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row for each contestant.

        Columns: ``ratio`` to spnb's time (the median of the rounds), ``lowest`` and ``highest``
        ratio of a round, ``seconds`` of a step, seconds to ``prepare``, and ``peak_bytes``.
        """
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
            f" {num_cores()} cores, {rounds} rounds"
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
        """Bytes that the plan expects of its largest rank."""
        return max(self.plan.memory_bytes)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the time of each contestant as a multiple of spnb's.

        Parameters
        ----------
        ax
            Where to draw; a new figure by default.

        Returns
        -------
        matplotlib.axes.Axes
        """
        from ..display import plots

        return plots.ratios(self.table, ax)

    def report(self) -> dict[str, Any]:
        """Return every figure, ready for JSON; times in seconds, memory in bytes."""
        table = self.table
        return {
            "job": {"model": self.plan.job.name, **self.plan.job.values()},
            "ranks": self.plan.num_ranks,
            "cores": num_cores(),
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
    training: bool = False,
) -> Bench | TrainingBench:
    """Compare the time of a job with that of baselines, and of its ranks without messages.

    Engines are started, and stopped at the end.

    Parameters
    ----------
    job
        The job to run; its input is random numbers.
    baselines
        Names in `spnb.benchmarking.baselines.BASELINES`; all of them by default.  A baseline that
        cannot run here is skipped, and the result says why.
    rounds
        Steps of each contestant.
    progress
        Whether to show a progress bar.
    training
        Whether to time steps of training: see `spnb.benchmarking.training_bench`.

    Returns
    -------
    Bench or TrainingBench
        Seconds and memory of each contestant, and ratios to spnb's time.

    Raises
    ------
    OptionError
        If a baseline is unknown or of no use, there are no rounds, or ranks would compute on GPUs.
    PlanError, CaptureError
        As `spnb.plan` does.

    Examples
    --------
    ::

        spnb.bench(spnb.Job("resnet50", image_size=512, batch_size=1, split_size=1)).plot()
    """
    if training:
        refuse_baselines(baselines)
        return bench_training(job, rounds, progress)
    names = baselines_to_measure(baselines, rounds)
    if job.device_kind != "cpu":
        raise OptionError(
            f"device is {job.device_kind}, but all that a split is measured against runs on the"
            " CPU: leave it out"
        )
    planned = plan(job)
    plans = contestants(planned, "spnb", LIMIT) | {SOLO: on_one_thread(job)}
    with Bar(progress) as bar:
        found = measure(plans, names, rounds, bar)
    return Bench.of(planned, found, "spnb", LIMIT)


def refuse_baselines(baselines: Sequence[str] | None) -> None:
    """Refuse names of baselines where training is measured.

    Raises
    ------
    OptionError
        If there are some.
    """
    if baselines is not None:
        raise OptionError(
            f"baselines {', '.join(baselines)} are for inference: training is compared with plain"
            " torch alone, so leave them out"
        )


def baselines_to_measure(baselines: Sequence[str] | None, rounds: int) -> list[str]:
    """Return the names of the baselines to measure; all of them for None.

    Raises
    ------
    OptionError
        If one is unknown, or there are no rounds.
    """
    for name in baselines or ():
        if name not in BASELINES:
            raise OptionError(f"unknown baseline {name!r}: use some of {', '.join(BASELINES)}")
    refuse_out_of_range("rounds", rounds, 1, MOST_ROUNDS)
    return list(BASELINES if baselines is None else baselines)
