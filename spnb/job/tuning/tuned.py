"""The result of a search: the splits that no other one beats in both time and memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd

from ...display.cards import Card, Shown, Table, counted, size_text, time_text
from ...ir.cost import Machine
from ..command import code_of, command_of
from ..job import Job
from ..job_plan import JobPlan
from .estimates import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_ROWS = 12
"""Most rows of the table; of a longer front, rows between are left out."""


@dataclass(frozen=True)
class Candidate:
    """A split that was planned and simulated.

    Attributes
    ----------
    plan
        Its plan.
    seconds
        Of a batch, simulated: in training, of a step.
    memory
        Bytes of the rank that needs most.
    estimate
        What arithmetic foresaw before it was planned; None if it was not asked.
    """

    plan: JobPlan
    seconds: float
    memory: int
    estimate: Estimate | None = None

    @property
    def job(self) -> Job:
        """The job with this split."""
        return self.plan.job


def front_of(found: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """The candidates that no other one beats in time, memory and ranks; the fastest first."""

    different: dict[tuple[float, int, int], Candidate] = {}
    for each in found:
        different.setdefault((each.seconds, each.memory, each.plan.num_ranks), each)

    def is_beaten(figures: tuple[float, int, int]) -> bool:
        return any(
            other != figures and all(x <= y for x, y in zip(other, figures, strict=True))
            for other in different
        )

    front = [each for figures, each in different.items() if not is_beaten(figures)]
    return tuple(sorted(front, key=lambda c: (c.seconds, c.memory)))


@dataclass(frozen=True, eq=False, repr=False)
class Tuned(Shown):
    """Splits of a job; a notebook shows them as a table and a picture.

    Attributes
    ----------
    job, training
        What was searched.
    machine
        The machine of the simulation.
    ranks, memory
        Most ranks, and most bytes of a rank; None without a limit.
    front
        The splits that no other one beats in both time and memory, the fastest first.
    planned
        All splits that were planned and simulated.
    notes
        Lines on what was looked at, and what was not.
    """

    job: Job
    training: bool
    machine: Machine
    ranks: int
    memory: int | None
    front: tuple[Candidate, ...]
    planned: tuple[Candidate, ...]
    notes: tuple[str, ...]

    @property
    def best(self) -> Candidate:
        """The fastest split."""
        return self.front[0]

    @property
    def leanest(self) -> Candidate:
        """The split whose ranks need the least memory."""
        return self.front[-1]

    @property
    def shown(self) -> tuple[Candidate, ...]:
        """The splits of the table, the fastest first."""
        count = len(self.front)
        if count <= MOST_ROWS:
            return self.front
        places = sorted({round(k * (count - 1) / (MOST_ROWS - 1)) for k in range(MOST_ROWS)})
        return tuple(self.front[place] for place in places)

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row for each split of the front, the fastest first.

        Columns: ``split`` in words; ``ranks``; ``seconds`` of a batch; ``memory_bytes`` of the rank
        that needs most; the ``command`` of the shell, None for a network that has no name; and the
        ``code``.
        """
        verb = "train" if self.training else "infer"
        rows = [
            {
                "split": split_text(each.plan),
                "ranks": each.plan.num_ranks,
                "seconds": each.seconds,
                "memory_bytes": each.memory,
                "command": command_of(each.job, verb),
                "code": code_of(each.job, self.training),
            }
            for each in self.shown
        ]
        return pd.DataFrame(rows)

    @property
    def card(self) -> Card:
        """The table, the commands and the notes, in words."""
        table = self.table
        rows = [
            (
                str(number),
                row.split,
                str(row.ranks),
                time_text(row.seconds),
                size_text(row.memory_bytes),
            )
            for number, row in enumerate(table.itertuples(), 1)
        ]
        step = "a step" if self.training else "a batch"
        limit = "" if self.memory is None else f", {size_text(self.memory)} a rank"
        title = f"{self.job.name}: the best splits of at most {counted(self.ranks, 'rank')}{limit}"
        lines = [f"simulated on {self.machine.name}", *self.notes]
        for number, row in enumerate(table.itertuples(), 1):
            lines += [f"{number}  {line}" for line in (row.command, row.code) if line]
        return Card(title, [Table(("", "split", "ranks", step, "memory"), rows), *lines])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw time against memory; see `spnb.display.plots.front.front`."""
        from ...display import plots

        return plots.front(_points(self.planned), self.table, ax)

    def _repr_html_(self) -> str:
        from ...display import plots

        figure = self.plot().get_figure(root=True)
        assert figure is not None  # it was just drawn
        return f"<div>{self.card.html}{plots.embedded(figure)}</div>"

    def report(self) -> dict[str, Any]:
        """Return every figure, ready for JSON; times in seconds, memory in bytes."""
        return {
            "job": {"model": self.job.name, **self.job.values()},
            "machine": self.machine.name,
            "ranks": self.ranks,
            "memory_limit_bytes": self.memory,
            "front": self.table.to_dict("records"),
            "planned": _points(self.planned).to_dict("records"),
            "notes": list(self.notes),
        }


def _points(found: Sequence[Candidate]) -> pd.DataFrame:
    rows = [
        {
            "split": split_text(each.plan),
            "ranks": each.plan.num_ranks,
            "seconds": each.seconds,
            "memory_bytes": each.memory,
        }
        for each in found
    ]
    return pd.DataFrame(rows)


def split_text(plan: JobPlan) -> str:
    """A split in words.

    >>> import spnb
    >>> split_text(spnb.plan("resnet20_v1", image_size=64, batch_size=2, parts=2, fuse=2))
    '2×2 tiles, then whole; 2 parts; fused by 2'
    """
    job, stages = plan.job, []
    for stage in plan.stages:
        grid = "×".join(map(str, stage.team.tiling.grid[1:]))
        slices = stage.team.tiling.grid[0]
        text = f"{grid} tiles" if stage.tiled else "whole"
        stages.append(text if slices == 1 else f"whole, batch shared by {slices}")
    runs: list[list[str]] = []
    for text in stages:
        if runs and runs[-1][0] == text:
            runs[-1].append(text)
        else:
            runs.append([text])
    words = [", then ".join(t[0] if len(t) == 1 else f"{len(t)} stages {t[0]}" for t in runs)]
    if job.parts > 1:
        words.append(f"{job.parts} parts")
    if job.replicas > 1:
        words.append(f"{job.replicas} replicas")
    if job.halo_D2:
        words.append("fused by " + str(job.fused_layers))
    if job.patches > 1:
        words.append(f"{job.patches} patches a tile")
    if plan.recompute:
        words.append("recomputed")
    return "; ".join(words)
