"""Measures plans with fused halos: messages, bytes, redundant work and time, by fused blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..display.cards import Card, Shown, Table, size_text, time_text
from ..display.progress import Bar
from ..job.job import Job
from ..job.job_plan import JobPlan, plan
from ..kernels.cores import num_cores
from . import LENGTH_TILES, LENGTHS
from .benchmark import baselines_to_measure
from .measure import measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Key = tuple[int, int | str]
"""Number of tiles, and number of blocks that share an exchange.

The second number is 0 for an exchange before each window operator.
"""


@dataclass(frozen=True, eq=False, repr=False)
class Sweep(Shown):
    """The figures of plans of one job that differ in tiles and fused blocks.

    Attributes
    ----------
    job
        The job; the plans differ from it only in tiles and fused blocks.
    plans
        The plans by number of tiles and of fused blocks.
    seconds
        Seconds of a step in each round, by number of tiles and of fused blocks.
    """

    job: Job
    plans: Mapping[Key, JobPlan]
    seconds: Mapping[Key, tuple[float, ...]]

    @property
    def table(self) -> pd.DataFrame:
        """A row for each number of tiles and of fused blocks; ``best`` marks the fastest row for
        a number of tiles."""
        rows = []
        for (tiles, length), each in self.plans.items():
            totals = each.totals
            rows.append(
                {
                    "tiles": tiles,
                    "fused": str(length or "none"),
                    "exchanges": totals.exchanges,
                    "messages": totals.messages,
                    "bytes": totals.bytes,
                    "redundant": totals.redundant,
                    "seconds": median(self.seconds[tiles, length]),
                }
            )
        found = pd.DataFrame(rows)
        found["best"] = found.seconds == found.groupby("tiles").seconds.transform("min")
        return found.set_index(["tiles", "fused"])

    @property
    def card(self) -> Card:
        """The table, in words."""
        rows = [
            (
                str(tiles),
                fused,
                str(row.exchanges),
                str(row.messages),
                size_text(row.bytes),
                f"{row.redundant:.1%}",
                time_text(row.seconds) + "  ← best" * row.best,
            )
            for (tiles, fused), row in self.table.iterrows()
        ]
        headings = ("tiles", "fused", "exchanges", "messages", "sent", "redundant work", "a step")
        rounds = len(next(iter(self.seconds.values())))
        size = "×".join(map(str, self.job.input_shape))
        title = f"{self.job.name} on {size}, {num_cores()} cores, {rounds} rounds"
        return Card(title, [Table(headings, rows)])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw time and work over fused blocks; see `spnb.display.plots.benchmarks.lengths`."""
        from ..display import plots

        return plots.lengths(self.table, ax)

    def report(self) -> dict[str, Any]:
        """Return every figure, ready for JSON; times in seconds, memory in bytes."""
        rows = self.table.reset_index().to_dict("records")
        job = {"model": self.job.name, **self.job.values()}
        return {"job": job, "cores": num_cores(), "lengths": rows}


def sweep(
    job: Job,
    lengths: Sequence[int | str] = LENGTHS,
    tiles: Sequence[int] = LENGTH_TILES,
    rounds: int = 5,
    progress: bool = True,
) -> Sweep:
    """Measure a job for several numbers of fused blocks, and of tiles.

    Parameters
    ----------
    job
        The job to run.
    lengths
        Numbers of blocks that share an exchange (``--fused-layers``), ``"all"``, or 0 for an
        exchange before each window operator.
    tiles
        Numbers of tiles.
    rounds
        Steps of each plan, in turns.
    progress
        Whether to show a progress bar.

    Raises
    ------
    OptionError, PlanError
        If one of the splits is refused.

    Examples
    --------
    ::

        from spnb.benchmarking.sweep import sweep

        sweep(spnb.Job("w3", image_size=512, batch_size=1, split_size=1)).plot()
    """
    baselines_to_measure((), rounds)
    plans: dict[Key, JobPlan] = {}
    for n in tiles:
        for length in lengths:
            fused = {"halo_D2": bool(length), "fused_layers": length or 1}
            plans[n, length] = plan(job.replace(num_spatial_parts=n, **fused))
    with Bar(progress) as bar:
        found = measure({str(key): each for key, each in plans.items()}, [], rounds, bar)
    return Sweep(job, plans, {key: tuple(found.seconds[str(key)]) for key in plans})
