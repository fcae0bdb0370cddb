"""Searches splits: the one that promises most is planned first, and the worse ones never.

Arithmetic foresees roughly what each of some thousand splits takes (see
`spnb.job.tuning.estimates`).  The network is captured once.  Then, again and again, the split whose
estimate lies farthest ahead of all plans made so far is planned and simulated::

    memory │ x        x: a plan       e: an estimate that is ahead of all plans: planned next
           │   e  x                   d: one behind a plan: it needs no plan
           │     d   x
           └────────────── time

Of a tiled split, the number of blocks that share a halo exchange is searched by plans, since it
changes messages and redundant work, of which estimates know nothing.  The search ends when no
estimate is ahead, or when its time is over; the result says which.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from ...analysis.memory import memory_in_the_middle
from ...analysis.simulate import seconds_by_stage
from ...analysis.weight_memory import process_bytes
from ...display.cards import counted, size_text, time_text
from ...display.progress import Bar
from ...errors import CaptureError, OptionError, PlanError
from ...ir.cost import Machine
from ...ir.tiling import Tiling
from ...planner.balance import tileable_blocks
from ..job import Job, job_of
from ..job_plan import JobPlan
from ..machines import MachineLike, machine_of
from ..parsing import refuse_out_of_range, size_in_bytes
from ..validation import MOST_RANKS
from .estimates import Estimate, Estimates
from .splits import FUSED, Split, agrees, searched, splits
from .tuned import Candidate, Tuned

NOT_SEARCHED = (
    "not searched: grids other than squares and strips, tiles that differ from stage to stage,"
    " gems, allow_gather, schedule, precision and backend"
)
"""What a search leaves out, for its reader."""

SECONDS = 7.0
"""Seconds of a search, unless others are said."""


def tune(
    job: Job | str | nn.Module,
    ranks: int,
    memory: int | str | None = None,
    machine: MachineLike = None,
    *,
    training: bool = False,
    seconds: float = SECONDS,
    progress: bool = True,
    **options: Any,
) -> Tuned:
    """Search the splits of a job for those that are fast and need little memory.

    Stages, tiles and their grid, balance, fused blocks, micro-batches, patches, replicas, ranks of
    an untiled stage and, in training, recomputation are searched.  Those of them that the job gives
    stay as they are.  No rank is started.

    Parameters
    ----------
    job
        A network, an image size and a batch; or only the network, as `spnb.Job` takes it.
    ranks
        Most ranks.
    memory
        Most bytes that a rank may need, or a text such as ``"4GiB"``; by default there is no limit.
    machine
        The machine of the simulation: as of `spnb.job.job_plan.JobPlan.simulate`.
    training
        Whether the network is trained.
    seconds
        How long to search; the network is captured within this time too.
    progress
        Whether to show a progress bar.
    **options
        Options of the job.

    Returns
    -------
    Tuned
        The splits that no other one beats in both time and memory, as a table and a picture.

    Raises
    ------
    OptionError, PlanError, CaptureError
        If no split can be planned, or none needs so little memory.

    Examples
    --------
    >>> found = tune("resnet20_v1", ranks=4, image_size=256, batch_size=1, progress=False)
    >>> found.table["ranks"].max() <= 4, found.best.seconds <= found.leanest.seconds
    (np.True_, True)
    """
    start = time.monotonic()
    refuse_out_of_range("ranks", ranks, 1, MOST_RANKS)
    limit = None if memory is None else size_in_bytes(memory)
    with Bar(progress) as bar:
        search = _Search(job_of(job, **options), ranks, limit, machine_of(machine), training)
        search.run(start + seconds, bar)
    return search.result(time.monotonic() - start)


class _Search:
    """The plans that were made so far, and the splits that were not planned.

    Attributes
    ----------
    found
        What was planned and simulated.
    refused
        Messages of splits that cannot be planned, and how often.
    """

    def __init__(self, job: Job, ranks: int, memory: int | None, machine: Machine, training: bool):
        self.job, self.ranks, self.memory = job, ranks, memory
        self.machine = machine if job.link is None else job.link.on(machine)
        self.training = training
        self.held = {name: value for name, value in job.given().items() if name in searched()}
        self.found: list[Candidate] = []
        self.refused: Counter[str] = Counter()
        self.behind = self.not_reached = self.too_large = 0
        self.least = math.inf
        if isinstance(job.num_spatial_parts, tuple):
            raise OptionError(
                f"num_spatial_parts is {job.num_spatial_parts}, but tune searches one number of"
                " tiles for all tiled stages: leave it out"
            )
        self.estimates = self._estimates()
        self._known: dict[tuple[Split, int | str], Candidate | None] = {}
        self._fused = 0  # place in FUSED of the last best number

    def _estimates(self) -> Estimates:
        """Plan the whole network on one rank: it is captured there."""
        whole = Split(recompute=False).options() | {"spatial_size": 1, "num_spatial_parts": 1}
        kept = {"gems": False, "times": 1, "enable_master_comm_opt": False}
        job = self.job.replace(**whole, **kept)
        found = JobPlan(job, self.training)
        grid = Tiling.even((1, *[2 if n > 1 else 1 for n in found.extent]))
        tileable = tileable_blocks(found.captured, grid, False, job.allow_gather)
        return Estimates(found, self.machine, tileable)

    def run(self, deadline: float, bar: Bar) -> None:
        """Plan one split after another, until no estimate is ahead or time is over."""
        listed, estimates = self._listed()
        begun = time.monotonic()
        seconds = np.log([each.seconds for each in estimates])
        bytes_held = np.log([each.memory for each in estimates])
        ranks = np.log([each.ranks for each in listed])
        left = np.ones(len(listed), bool)
        kinds = [(each.tiles, each.stages, each.tiled) for each in listed]
        slower: dict[tuple[int, int, int], float] = {}  # log of the ratio to the estimate
        while left.any():
            ahead = np.where(left, self._ahead(seconds, bytes_held, ranks), -np.inf)
            number = int(ahead.argmax())
            if ahead[number] <= 0:
                break
            if self.found and time.monotonic() >= deadline:
                self.not_reached = int((ahead > 0).sum())
                break
            left[number] = False
            bar.show("searching", time.monotonic() - begun, deadline - begun)
            best = self._look(listed[number], estimates[number], deadline)
            if best is not None:
                # Others of as many tiles and stages will be slower than estimated, too.
                ratio = float(np.log(best.seconds)) - seconds[number]
                kind = kinds[number]
                change = ratio - slower.get(kind, 0.0)
                if kind not in slower and ratio > 0:
                    slower[kind] = ratio
                    seconds[[k == kind for k in kinds]] += change
        self.behind = int(left.sum()) - self.not_reached

    def _listed(self) -> tuple[list[Split], list[Estimate]]:
        """The splits that the memory is enough for, and their estimates."""
        batch, axes = self.job.batch_size, len(self.estimates.whole.extent)
        listed, estimates = [], []
        for split in splits(self.ranks, batch, axes, self.training):
            if not agrees(split, self.held):
                continue
            estimate = self.estimates.of(split)
            if estimate is None:
                continue
            self.least = min(self.least, estimate.memory)
            if self.memory is not None and estimate.memory > self.memory:
                self.too_large += 1
                continue
            listed.append(split)
            estimates.append(estimate)
        return listed, estimates

    def _ahead(self, seconds: np.ndarray, bytes_held: np.ndarray, ranks: np.ndarray) -> np.ndarray:
        """How far each estimate is ahead of all plans: a logarithm, most of all of its time."""
        ahead = np.full(len(seconds), np.inf)
        for each in self.found:
            gains = (
                np.log(each.seconds) - seconds,
                (np.log(each.memory) - bytes_held) / 2,
                (np.log(each.plan.num_ranks) - ranks) / 4,
            )
            ahead = np.minimum(ahead, np.maximum.reduce(gains))
        return ahead if self.found else seconds.max() + 1 - seconds

    def _look(self, split: Split, estimate: Estimate, deadline: float) -> Candidate | None:
        """Plan a split; of a tiled one, with the number of fused blocks that is the best."""
        if not split.tiled:
            return self._planned(split, estimate, 0)
        given = {"halo_D2", "fused_layers"} & self.held.keys()
        if given:
            return self._planned(split, estimate, self.job.fused_layers)
        place = self._fused
        best = self._planned(split, estimate, FUSED[place])
        if best is None and FUSED[place] != 0:
            best = self._planned(split, estimate, 0)
        if best is None:
            return None
        for step in (1, -1):
            number = place + step
            while 0 <= number < len(FUSED) and time.monotonic() < deadline:
                other = self._planned(split, estimate, FUSED[number])
                if other is None or other.seconds >= best.seconds:
                    break
                best, place, number = other, number, number + step
        self._fused = place
        return best

    def _planned(self, split: Split, estimate: Estimate, fused: int | str) -> Candidate | None:
        """Plan and simulate a split; None if it is refused, or needs too much memory."""
        if (split, fused) in self._known:
            return self._known[split, fused]
        changed = split.options() | {"halo_D2": bool(fused), "fused_layers": fused or 1}
        if "balance" not in self.held and split.stages > 1:
            changed["balance"] = estimate.balance
        if self.training and split.recompute and self.memory is not None and split.patches == 1:
            changed |= {"recompute": False, "recompute_memory": self.memory}
        try:
            plan = JobPlan(self.job.replace(**{**changed, **self.held}), self.training)
            found = Candidate(
                plan=plan,
                seconds=seconds_by_stage(plan, self.machine),
                memory=process_bytes(self.training) + memory_in_the_middle(plan),
                estimate=estimate,
            )
        except (OptionError, PlanError, CaptureError) as error:
            self.refused[str(error)] += 1
            self._known[split, fused] = None
            return None
        self._known[split, fused] = found
        if self.memory is not None and found.memory > self.memory:
            self.too_large += 1
            return None
        self.found.append(found)
        return found

    def result(self, seconds: float) -> Tuned:
        """The splits that no other one beats, and what was not searched."""
        if not self.found:
            raise self._nothing()
        return Tuned(
            job=self.job,
            training=self.training,
            machine=self.machine,
            ranks=self.ranks,
            memory=self.memory,
            front=front_of(self.found),
            planned=tuple(self.found),
            notes=self._notes(seconds),
        )

    def _nothing(self) -> Exception:
        """The error of a search that found nothing."""
        if self.refused:
            reason = self.refused.most_common(1)[0][0]
            return PlanError(f"no split of {self.ranks} ranks or fewer can be planned: {reason}")
        return OptionError(
            f"no split of {counted(self.ranks, 'rank')} or fewer needs"
            f" {size_text(self.memory or 0)} a rank or less, the least is about"
            f" {size_text(self.least)}: allow more ranks or more memory"
        )

    def _notes(self, seconds: float) -> tuple[str, ...]:
        """What was looked at, and what was not."""
        planned = len(self.found)
        text = (
            f"{counted(planned, 'plan')} simulated in {time_text(seconds)}; of the other splits"
            f" {self.behind:,} are behind these by arithmetic alone"
        )
        if self.too_large:
            text += f", {self.too_large:,} need more memory"
        if self.not_reached:
            text += f", and {self.not_reached:,} may be better: time was over (--seconds)"
        notes = [text]
        if self.refused:
            reason, _ = self.refused.most_common(1)[0]
            count = sum(self.refused.values())
            notes.append(f"{counted(count, 'split')} refused, most of all since: {reason}")
        if self.held:
            held = ", ".join(f"{name}={value}" for name, value in self.held.items())
            notes.append(f"as the job gives it: {held}")
        notes.append(NOT_SEARCHED)
        return tuple(notes)


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
