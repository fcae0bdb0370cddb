"""The standard benchmarks of training: workloads × image sizes × tiles × recomputing.

All contestants of one workload and size take turns in the same rounds.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
import torch

from ..display.cards import Card, Shown, Table, size_text, time_text
from ..display.progress import Bar
from ..job.job import Job
from ..job.job_plan import JobPlan, plan
from ..job.parsing import refuse_out_of_range
from ..kernels.cores import num_cores
from . import MEMORY_SIZES, MOST_ROUNDS, TILES, TRAINED_SIZES, TRAINED_WORKLOADS
from .measured_training import PLAIN, measure_training
from .training_bench import ALONE, ORDER, TrainingBench, in_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Key(NamedTuple):
    """One of the benchmarks."""

    workload: str
    size: int
    tiles: int
    recompute: bool

    @property
    def network(self) -> str:
        """The workload, and whether values are recomputed."""
        return self.workload + ", recomputed" * self.recompute


@dataclass(frozen=True, eq=False, repr=False)
class TrainingSuite(Shown):
    """The figures of the standard benchmarks of training.

    Attributes
    ----------
    benches
        The benchmark of each workload, image size and number of tiles, with and without recomputed
        values.
    """

    benches: Mapping[Key, TrainingBench]

    @property
    def table(self) -> pd.DataFrame:
        """A row for each benchmark; a figure that was not measured is NaN.

        Columns: ``seconds`` of a step; the ``ratio`` of each contestant's time to spnb's, by its
        name; the ``peak`` and the ``planned`` bytes of the largest rank, and its memory as a share
        of that of plain PyTorch on the whole image (``of_whole``) and on a tile (``of_tile``).
        """
        rows = []
        for bench in self.benches.values():
            table = bench.table.reindex(["spnb", *ORDER])
            rows.append(
                {
                    "seconds": table.seconds["spnb"],
                    **table.ratio.drop("spnb").to_dict(),
                    "peak": table.peak_bytes["spnb"],
                    "planned": bench.planned_memory,
                    "of_whole": table.share[PLAIN],
                    "of_tile": table.share[ALONE],
                }
            )
        index = pd.MultiIndex.from_tuples(list(self.benches), names=Key._fields)
        return pd.DataFrame(rows, index=index)

    @property
    def card(self) -> Card:
        """The table, in words."""
        headings = (
            *("", "tiles", "a step", *ORDER),
            *("memory of a rank", "planned", "of plain", "of a tile alone"),
        )
        rows = [
            (
                f"{key.network} {key.size}²",
                str(key.tiles),
                in_words(row.seconds, time_text),
                *(in_words(row[name]) for name in ORDER),
                in_words(row.peak, size_text),
                size_text(row.planned),
                in_words(row.of_whole),
                in_words(row.of_tile),
            )
            for key, (_, row) in zip(self.benches, self.table.iterrows(), strict=True)
        ]
        rounds = max(len(bench.seconds.get("spnb", ())) for bench in self.benches.values())
        title = (
            f"training: how long others take, of spnb's time; {num_cores()} cores, {rounds} rounds"
        )
        skipped = {k: v for bench in self.benches.values() for k, v in bench.skipped.items()}
        return Card(title, [Table(headings, rows), *(f"{k}: {v}" for k, v in skipped.items())])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the ratios; see `spnb.display.plots.benchmarks.suite`."""
        from ..display import plots

        ratios = self.table[list(ORDER)].dropna(how="all")
        names = [(key.network, key.size, key.tiles) for key in map(Key._make, ratios.index)]
        ratios.index = pd.MultiIndex.from_tuples(names)
        return plots.suite(ratios, ax)

    def report(self) -> dict[str, Any]:
        """Return every figure, ready for JSON; times in seconds, memory in bytes."""
        return {
            "cores": num_cores(),
            "machine": platform.machine(),
            "torch": torch.__version__,
            "benches": [{**key._asdict(), **bench.report()} for key, bench in self.benches.items()],
        }


def training_suite(
    workloads: Sequence[str] = TRAINED_WORKLOADS,
    sizes: Sequence[int] = TRAINED_SIZES,
    memory_sizes: Sequence[int] = MEMORY_SIZES,
    tiles: Sequence[int] = TILES,
    rounds: int = 3,
    progress: bool = True,
) -> TrainingSuite:
    """Measure the training of workloads that are tiled from the first layer to the last.

    A batch has one image; other options have their defaults.

    Parameters
    ----------
    workloads
        Names of built-in networks.
    sizes
        Sides of square images, in pixels, on which steps are timed.
    memory_sizes
        Sides of those on which the memory of ranks is measured.
    tiles
        Numbers of tiles.
    rounds
        Turns of each contestant.
    progress
        Whether to show a progress bar.

    Examples
    --------
    ::

        from spnb.benchmarking.training_suite import training_suite

        training_suite(["unet"], sizes=[256], memory_sizes=[256], tiles=[2]).plot()
    """
    refuse_out_of_range("rounds", rounds, 1, MOST_ROUNDS)
    found: dict[Key, TrainingBench] = {}
    with Bar(progress) as bar:
        for workload in workloads:
            for size in dict.fromkeys([*sizes, *memory_sizes]):
                plans = _plans(workload, size, tiles)
                by_name = {str(key): each for key, each in plans.items()}
                turns, memory = rounds if size in sizes else 0, size in memory_sizes
                measured = measure_training(by_name, turns, bar, memory=memory)
                for key, each in plans.items():
                    found[key] = TrainingBench.of(each, measured, str(key))
    return TrainingSuite(found)


def _plans(workload: str, size: int, tiles: Sequence[int]) -> dict[Key, JobPlan]:
    """The plans that take turns: those of one workload and image size."""
    job = Job(workload, image_size=size, batch_size=1, split_size=1)
    return {
        Key(workload, size, count, recompute): plan(
            job.replace(num_spatial_parts=count, recompute=recompute), training=True
        )
        for count in tiles
        for recompute in (False, True)
    }
