"""What fused halos cost and save: messages, bytes, redundant work and time, by length."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..display.cards import Card, Shown, Table, size_text, time_text
from ..display.progress import Bar
from ..job.job import Job
from ..job.job_plan import JobPlan, plan
from . import LENGTH_TILES, LENGTHS
from .benchmark import checked, measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Key = tuple[int, int | str]
"""Tiles, and blocks that share an exchange: 0 for an exchange before each window operator."""


@dataclass(frozen=True, eq=False, repr=False)
class Sweep(Shown):
    """Plans of one job that differ in tiles and fused blocks, measured side by side.

    Attributes
    ----------
    job
        What they have in common.
    plans
        By tiles and fused blocks.
    seconds
        A step in each round.
    """

    job: Job
    plans: Mapping[Key, JobPlan]
    seconds: Mapping[Key, tuple[float, ...]]

    @property
    def table(self) -> pd.DataFrame:
        """A row for each number of tiles and length; ``best`` marks the fastest for its tiles."""
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
        title = f"{self.job.name} on {size}, {os.cpu_count()} cores, {rounds} rounds"
        return Card(title, [Table(headings, rows)])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw time and redundant work over the length; see `spnb.display.plots.lengths`."""
        from ..display import plots

        return plots.lengths(self.table, ax)

    def report(self) -> dict[str, Any]:
        """Every figure, ready for JSON."""
        rows = self.table.reset_index().to_dict("records")
        job = {"model": self.job.name, **self.job.values()}
        return {"job": job, "cores": os.cpu_count(), "lengths": rows}


def sweep(
    job: Job,
    lengths: Sequence[int | str] = LENGTHS,
    tiles: Sequence[int] = LENGTH_TILES,
    rounds: int = 5,
    progress: bool = True,
) -> Sweep:
    """Measure a job with halos fused over some numbers of blocks, and on some numbers of tiles.

    Parameters
    ----------
    job
        What to run.
    lengths
        Blocks that share an exchange (``--fused-layers``), ``"all"``, or 0 for an exchange before
        each window operator.
    tiles
        Numbers of tiles.
    rounds
        Steps of each, in turns.
    progress
        Show a bar.

    Raises
    ------
    OptionError, PlanError
        If one of the splits cannot be had.

    Examples
    --------
    ::

        from spnb.benchmarking.sweep import sweep

        sweep(spnb.Job("w3", image_size=512, batch_size=1, split_size=1)).plot()
    """
    checked((), rounds)
    plans: dict[Key, JobPlan] = {}
    for n in tiles:
        for length in lengths:
            fused = {"halo_D2": bool(length), "fused_layers": length or 1}
            plans[n, length] = plan(job.replace(num_spatial_parts=n, **fused))
    with Bar(progress) as bar:
        found = measure({str(key): each for key, each in plans.items()}, [], rounds, bar)
    return Sweep(job, plans, {key: tuple(found.seconds[str(key)]) for key in plans})
