"""The standard benchmarks: workloads × image sizes × tiles, each compared with the baselines.

All contestants of one workload and size take turns in the same rounds, so each ratio compares steps
of the same round.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from ..display.cards import Card, Shown, Table, size_text, time_text
from ..display.progress import Bar
from ..job.job import Job
from ..job.job_plan import plan
from ..kernels.cores import num_cores
from . import SIZES, TILES, WORKLOADS
from .benchmark import Bench, baselines_to_measure
from .contestants import LIMIT, SOLO, contestants, on_one_thread
from .measure import measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Key = tuple[str, int, int]
"""Workload, image size, tiles."""


@dataclass(frozen=True, eq=False, repr=False)
class Suite(Shown):
    """The figures of the standard benchmarks.

    Attributes
    ----------
    benches
        The benchmark of each workload, image size and number of tiles.
    """

    benches: Mapping[Key, Bench]

    @property
    def ratios(self) -> pd.DataFrame:
        """The time of each contestant as a multiple of spnb's.

        A row for each workload, image size and number of tiles; a column for each contestant.
        """
        rows = {key: bench.table["ratio"].drop("spnb") for key, bench in self.benches.items()}
        found = pd.DataFrame.from_dict(rows, orient="index")
        found.index = pd.MultiIndex.from_tuples(rows, names=["workload", "size", "tiles"])
        return found[list(next(iter(rows.values())).index)]

    @property
    def table(self) -> pd.DataFrame:
        """The ratios, and the figures of spnb itself.

        Columns: ``seconds`` of a step; ``exchange``, the share of a step in which ranks pack, wait
        and unpack; ``planned`` and ``peak`` bytes of the largest rank.
        """
        benches, found = self.benches.values(), self.ratios
        found.insert(0, "seconds", [bench.table.seconds["spnb"] for bench in benches])
        found["exchange"] = [bench.exchange for bench in benches]
        found["planned"] = [bench.planned_memory for bench in benches]
        found["peak"] = [bench.peak_bytes["spnb"] for bench in benches]
        return found

    @property
    def card(self) -> Card:
        """The table, in words."""
        table, others = self.table, list(self.ratios.columns)
        headings = ("", "tiles", "a step", *others, "exchange", "memory", "planned")
        rows = [
            (
                f"{workload} {size}²",
                str(tiles),
                time_text(row.seconds),
                *(f"{row[name]:.2f}×" for name in others),
                f"{row.exchange:.1%}",
                size_text(row.peak),
                size_text(row.planned),
            )
            for (workload, size, tiles), row in table.iterrows()
        ]
        rounds = len(next(iter(self.benches.values())).seconds["spnb"])
        title = f"how long others take, of spnb's time; {num_cores()} cores, {rounds} rounds"
        skipped = {k: v for bench in self.benches.values() for k, v in bench.skipped.items()}
        return Card(title, [Table(headings, rows), *(f"{k}: {v}" for k, v in skipped.items())])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the ratios; see `spnb.display.plots.benchmarks.suite`."""
        from ..display import plots

        return plots.suite(self.ratios, ax)

    def report(self) -> dict[str, Any]:
        """Return every figure, ready for JSON; times in seconds, memory in bytes."""
        return {
            "cores": num_cores(),
            "machine": platform.machine(),
            "torch": torch.__version__,
            "benches": [
                {"workload": workload, "size": size, "tiles": tiles, **bench.report()}
                for (workload, size, tiles), bench in self.benches.items()
            ],
        }


def suite(
    workloads: Sequence[str] = WORKLOADS,
    sizes: Sequence[int] = SIZES,
    tiles: Sequence[int] = TILES,
    baselines: Sequence[str] | None = None,
    rounds: int = 5,
    progress: bool = True,
) -> Suite:
    """Measure workloads that are tiled from the first layer to the last, with default options.

    Parameters
    ----------
    workloads
        Names of built-in networks.
    sizes
        Sides of square images, in pixels; a batch has one image.
    tiles
        Numbers of tiles.
    baselines
        Names in `spnb.benchmarking.baselines.BASELINES`; all by default.
    rounds
        Steps of each contestant.
    progress
        Whether to show a progress bar.

    Examples
    --------
    ::

        from spnb.benchmarking.suite import suite

        suite(["w1"], sizes=[512], tiles=[2]).plot()
    """
    names = baselines_to_measure(baselines, rounds)
    found: dict[Key, Bench] = {}
    with Bar(progress) as bar:
        for workload in workloads:
            for size in sizes:
                job = Job(workload, image_size=size, batch_size=1, split_size=1)
                split = {n: plan(job.replace(num_spatial_parts=n)) for n in tiles}
                plans = {SOLO: on_one_thread(job)}
                for n, tiled in split.items():
                    plans |= contestants(tiled, f"{n} tiles", f"{n} tiles, {LIMIT}")
                measured = measure(plans, names, rounds, bar)
                for n, tiled in split.items():
                    bench = Bench.of(tiled, measured, f"{n} tiles", f"{n} tiles, {LIMIT}")
                    found[workload, size, n] = bench
    return Suite(found)
