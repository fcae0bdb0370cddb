"""Compares training steps of a split network with those of plain PyTorch: their time and memory.

All contestants take turns (see `spnb.benchmarking.measured_training`).  A ratio is the median of
the ratios of all rounds.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
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
from .contestants import SOLO
from .measured_training import KEPT, PLAIN, TrainingFigures, alone, measure_training

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ALONE = "tiles alone"
"""Plain PyTorch on each tile, without an exchange."""

ORDER = (PLAIN, PLAIN + KEPT, ALONE, ALONE + KEPT, SOLO)
"""The contestants of a plan, in the order of a table's rows."""


@dataclass(frozen=True, eq=False, repr=False)
class TrainingBench(Shown):
    """Time and memory of the training steps of a plan, and of plain PyTorch.

    The contestants are ``"spnb"``, the plan; ``"plain"``, plain PyTorch on the whole image with all
    cores; ``"tiles alone"``, plain PyTorch on each tile of the first stage as an image of its own,
    in a process with one thread each, all at the same time and without an exchange; and spnb with
    one rank and one thread.  Those with ``", blocks kept"`` have the setting of the allocator that
    spnb's engines have, which takes more memory and less time than the default.

    Attributes
    ----------
    plan
        The plan that spnb trained.
    seconds
        By contestant: seconds of a step, in each round; empty if memory alone was measured.
    peak_bytes
        By contestant: most bytes of the largest process, above its idle state.
    skipped
        By contestant: the reason why it was not measured.
    """

    plan: JobPlan
    seconds: Mapping[str, tuple[float, ...]]
    peak_bytes: Mapping[str, int]
    skipped: Mapping[str, str]

    @classmethod
    def of(cls, planned: JobPlan, found: TrainingFigures, name: str) -> TrainingBench:
        """Return the benchmark of one plan among those that were measured.

        Parameters
        ----------
        planned
            The plan.
        found
            The measured figures.
        name
            Name of the plan in ``found``.
        """
        own = alone(planned)
        measured = {ALONE: own, ALONE + KEPT: own + KEPT}
        names = {"spnb": name} | {shown: measured.get(shown, shown) for shown in ORDER}
        return cls(
            planned,
            seconds={k: tuple(found.seconds[n]) for k, n in names.items() if n in found.seconds},
            peak_bytes={k: found.peaks[n] for k, n in names.items() if n in found.peaks},
            skipped={k: found.skipped[n] for k, n in names.items() if n in found.skipped},
        )

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row for each contestant; a figure that was not measured is NaN.

        Columns: ``ratio`` to spnb's time (the median of the rounds), ``lowest`` and ``highest``
        ratio of a round, ``seconds`` of a step, ``peak_bytes``, and ``share``: the memory of spnb's
        largest rank divided by that of the contestant.
        """
        frame = pd.DataFrame(dict(self.seconds), columns=self.names, dtype=float)
        ratios = frame.div(frame["spnb"], axis=0)
        peaks = pd.Series(dict(self.peak_bytes), index=self.names, dtype=float)
        return pd.DataFrame(
            {
                "ratio": ratios.median(),
                "lowest": ratios.min(),
                "highest": ratios.max(),
                "seconds": frame.median(),
                "peak_bytes": peaks,
                "share": peaks["spnb"] / peaks,
            },
            index=self.names,
        )

    @property
    def names(self) -> list[str]:
        """The contestants that were measured, spnb first."""
        return [n for n in ("spnb", *ORDER) if n in self.seconds or n in self.peak_bytes]

    @property
    def planned_memory(self) -> int:
        """Bytes that the plan expects of its largest rank."""
        return max(self.plan.memory_bytes)

    @property
    def card(self) -> Card:
        """The table, in words."""
        rows = [
            (
                name,
                in_words(row.ratio),
                "–" if pd.isna(row.ratio) else f"{row.lowest:.2f}–{row.highest:.2f}",
                in_words(row.seconds, time_text),
                in_words(row.peak_bytes, size_text),
                in_words(row.share),
            )
            for name, row in self.table.iterrows()
        ]
        headings = (
            *("a step in training", "takes, of spnb's time", "in rounds", "seconds"),
            *("memory", "spnb's memory, of this"),
        )
        rounds = len(self.seconds.get("spnb", ()))
        size = "×".join(map(str, self.plan.job.input_shape))
        title = (
            f"training {self.plan.job.name} on {size}, {self.plan.num_ranks} ranks,"
            f" {num_cores()} cores, {rounds} rounds"
        )
        memory = f"memory of the largest rank: {size_text(self.planned_memory)} planned"
        left_out = [f"not measured: {name}: {why}" for name, why in self.skipped.items()]
        return Card(title, [Table(headings, rows), memory, *left_out])

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

        return plots.ratios(self.table.dropna(subset="ratio"), ax)

    def report(self) -> dict[str, Any]:
        """Return every figure, ready for JSON; times in seconds, memory in bytes."""
        return {
            "job": {"model": self.plan.job.name, **self.plan.job.values()},
            "ranks": self.plan.num_ranks,
            "cores": num_cores(),
            "machine": platform.machine(),
            "torch": torch.__version__,
            "ratios": self.table["ratio"].dropna().to_dict(),
            "seconds": {name: list(each) for name, each in self.seconds.items()},
            "peak_memory_bytes": dict(self.peak_bytes),
            "planned_memory_bytes": self.planned_memory,
            "skipped": dict(self.skipped),
        }


def in_words(number: float, text: Callable[[float], str] = "{:.2f}×".format) -> str:
    """A figure of a table as text; a dash for one that was not measured.

    >>> in_words(1.254), in_words(float("nan"))
    ('1.25×', '–')
    """
    return "–" if pd.isna(number) else text(number)


def bench_training(job: Job, rounds: int = 5, progress: bool = True) -> TrainingBench:
    """Compare training steps of a job with those of plain PyTorch.

    Engines are started, and stopped at the end.

    Parameters
    ----------
    job
        The job to train; its images and targets are random numbers.
    rounds
        Turns of each contestant.
    progress
        Whether to show a progress bar.

    Raises
    ------
    OptionError
        If there are no rounds, the job names a checkpoint, or ranks would compute on GPUs.
    PlanError, CaptureError
        As `spnb.plan` does.

    Examples
    --------
    ::

        spnb.bench(spnb.Job("unet", image_size=256, batch_size=1, split_size=1), training=True)
    """
    refuse_out_of_range("rounds", rounds, 1, MOST_ROUNDS)
    if job.device_kind != "cpu":
        raise OptionError(
            f"device is {job.device_kind}, but plain torch is measured on the CPU: leave it out"
        )
    if job.checkpoint is not None:
        raise OptionError(
            "checkpoint is the file of a training, which a benchmark does not write: leave it"
            " out, or name its weights as weights"
        )
    planned = plan(job.replace(num_epochs=1), training=True)
    with Bar(progress) as bar:
        found = measure_training({"spnb": planned}, rounds, bar)
    return TrainingBench.of(planned, found, "spnb")
