"""The figures that spnb is judged by: workloads × image sizes × tiles, each against what else runs.

Of one workload and size all contestants take turns in the same rounds, so that each ratio is of
steps that were measured side by side.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from .benchmark import LIMIT, SOLO, Bench, Solo, checked, contestants, measure
from .cards import Card, Shown, Table, size_text, time_text
from .options import Job
from .planning import plan
from .progress import Bar
from .survey import memory

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WORKLOADS = ("w1", "w2", "w3", "resnet50")
"""Bound by arithmetic, by memory traffic, by the number of layers, and a bit of each."""

Key = tuple[str, int, int]
"""Workload, image size, tiles."""


@dataclass(frozen=True, eq=False, repr=False)
class Suite(Shown):
    """What was measured.

    Attributes
    ----------
    benches
        Of each workload, image size and number of tiles.
    """

    benches: Mapping[Key, Bench]

    @property
    def table(self) -> pd.DataFrame:
        """A row for each workload, size and number of tiles.

        ``seconds`` of a step; how many times as long each contestant takes; ``exchange``, the share
        of the step; ``planned`` and ``peak`` bytes of the largest rank.
        """
        rows = []
        for (workload, size, tiles), bench in self.benches.items():
            ratios = bench.table["ratio"].drop("spnb").to_dict()
            rows.append(
                {
                    "workload": workload,
                    "size": size,
                    "tiles": tiles,
                    "seconds": bench.table.seconds["spnb"],
                    **ratios,
                    "exchange": bench.exchange,
                    "planned": max(sum(each) for each in memory(bench.plan)),
                    "peak": bench.peak_bytes["spnb"],
                }
            )
        return pd.DataFrame(rows).set_index(["workload", "size", "tiles"])

    @property
    def card(self) -> Card:
        """The table, in words."""
        table = self.table
        others = [n for n in table.columns if n not in ("seconds", "exchange", "planned", "peak")]
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
        title = f"how long others take, of spnb's time; {os.cpu_count()} cores, {rounds} rounds"
        skipped = {k: v for bench in self.benches.values() for k, v in bench.skipped.items()}
        return Card(title, [Table(headings, rows), *(f"{k}: {v}" for k, v in skipped.items())])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the ratios; see `spnb.plots.suite`."""
        from . import plots

        return plots.suite(self.table, ax)

    def report(self) -> dict[str, Any]:
        """Every figure, ready for JSON."""
        return {
            "cores": os.cpu_count(),
            "machine": platform.machine(),
            "torch": torch.__version__,
            "benches": [
                {"workload": workload, "size": size, "tiles": tiles, **bench.report()}
                for (workload, size, tiles), bench in self.benches.items()
            ],
        }


def suite(
    workloads: Sequence[str] = WORKLOADS,
    sizes: Sequence[int] = (512, 1024),
    tiles: Sequence[int] = (2, 4),
    baselines: Sequence[str] | None = None,
    rounds: int = 5,
    progress: bool = True,
) -> Suite:
    """Measure workloads, tiled from the first layer to the last, with all else at its default.

    Parameters
    ----------
    workloads
        Names of built-in networks.
    sizes
        Of square images; a batch has one.
    tiles
        Numbers of tiles.
    baselines
        Names in `spnb.baselines.BASELINES`; all by default.
    rounds
        Steps of each contestant.
    progress
        Show a bar.

    Examples
    --------
    ::

        from spnb.suite import suite

        suite(["w1"], sizes=[512], tiles=[2]).plot()
    """
    names = checked(baselines, rounds)
    found: dict[Key, Bench] = {}
    with Bar(progress) as bar:
        for workload in workloads:
            for size in sizes:
                job = Job(workload, image_size=size, batch_size=1, split_size=1)
                split = {n: plan(job.replace(num_spatial_parts=n)) for n in tiles}
                plans = {SOLO: Solo(job)}
                for n, each in split.items():
                    plans |= contestants(each, f"{n} tiles", f"{n} tiles, {LIMIT}")
                measured = measure(plans, names, rounds, bar)
                for n, each in split.items():
                    bench = Bench.of(each, measured, f"{n} tiles", f"{n} tiles, {LIMIT}")
                    found[workload, size, n] = bench
    return Suite(found)
