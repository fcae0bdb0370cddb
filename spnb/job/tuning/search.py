"""Searches splits: the one that promises most is planned first, and the worse ones never.

Arithmetic foresees roughly what each of some thousand splits takes (see
`spnb.job.tuning.estimates`).  The network is captured once.  Then, again and again, the split whose
estimate lies farthest ahead of all plans made so far is planned and simulated::

    memory │ x        x: a plan       e: an estimate that is ahead of all plans: planned next
           │   e  x                   d: one behind a plan: it needs no plan
           │     d   x
           └────────────── time

Of a tiled split, the number of blocks that share a halo exchange is searched by plans, since it
changes messages and redundant work, of which estimates know nothing: all of them for the first
split, and for others the neighbours of the best.  The search ends when no
estimate is ahead, or when its time is over; the result says which.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import nn

from ...analysis.memory import memory_in_the_middle
from ...analysis.simulate import seconds_by_stage
from ...analysis.weight_memory import PROCESS
from ...display.cards import counted, size_text, time_text
from ...display.progress import Bar
from ...errors import CaptureError, OptionError, PlanError
from ...ir.cost import Machine
from ...ir.option_words import option
from ...ir.tiling import Tiling
from ...planner.balance import tileable_blocks
from ..job import Job, job_of
from ..job_plan import JobPlan
from ..machines import MachineLike, machine_of
from ..parsing import refuse_out_of_range, size_in_bytes
from ..validation import MOST_RANKS
from .estimates import Estimate, Estimates
from .splits import FUSED, Split, agrees, searched, splits
from .tuned import Candidate, Tuned, front_of
from .waiting import WaitingSplits

NOT_SEARCHED = (
    "not searched: grids other than squares and strips, tiles that differ from stage to stage,"
    " gems, allow_gather, schedule, precision and backend"
)
"""What a search leaves out, for its reader."""

SECONDS = 6.0
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
        How long to search.  The network is captured within this time, but half of it remains for
        the search itself.
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
        search.run(max(start + seconds, time.monotonic() + seconds / 2), bar)
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
        self._fused: int | None = None  # place in FUSED of the last best number

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
        waiting, begun = self._listed(), time.monotonic()
        while (number := waiting.take(self.found)) is not None:
            bar.show("searching", time.monotonic() - begun, deadline - begun)
            best = self._look(*waiting.split(number), deadline)
            if best is not None:
                waiting.correct(number, best.seconds)
            if time.monotonic() >= deadline:
                self.not_reached = int((waiting.ahead(self.found) > 0).sum())
                break
        self.behind = len(waiting) - self.not_reached

    def _listed(self) -> WaitingSplits:
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
        return WaitingSplits(listed, estimates)

    def _look(self, split: Split, estimate: Estimate, deadline: float) -> Candidate | None:
        """Plan a split; of a tiled one, with the number of fused blocks that is the best."""
        if not split.tiled:
            return self._planned(split, estimate, 0)
        given = {"halo_D2", "fused_layers"} & self.held.keys()
        if given:
            return self._planned(split, estimate, self.job.fused_layers)
        first = self._fused is None
        places = range(len(FUSED)) if first else sorted({0, self._fused or 0})
        tried = {place: self._planned(split, estimate, FUSED[place]) for place in places}
        while not first and time.monotonic() < deadline:  # go on from the best to its neighbours
            best = _fastest(tried)
            near = [n for n in (best - 1, best + 1) if 0 <= n < len(FUSED) and n not in tried]
            if not near:
                break
            tried |= {place: self._planned(split, estimate, FUSED[place]) for place in near}
        best = _fastest(tried)
        if tried[best] is not None:
            self._fused = best
        return tried[best]

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
                memory=PROCESS + memory_in_the_middle(plan),
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
        if self.not_reached:
            return OptionError(
                f"no split was found before time was over, and {self.not_reached:,} were not looked"
                f" at: give more {option('seconds')}"
            )
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
            text += f", and {self.not_reached:,} may be better: time was over ({option('seconds')})"
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


def _fastest(tried: Mapping[int, Candidate | None]) -> int:
    """The place of the fastest candidate."""
    seconds = {place: math.inf if c is None else c.seconds for place, c in tried.items()}
    return min(seconds, key=lambda place: seconds[place])
