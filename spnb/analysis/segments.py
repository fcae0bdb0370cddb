"""Which parts of a program training computes again, in place of holding their values.

Between the passes, a rank has the values alive where each segment begins.  In the backward pass it
has besides them all values of one segment::

    memory    begin │ begin │ begin │ all values          short segments: many beginnings
              of 1  │ of 2  │ of 3  │ of 3                long segments: many values at a time

The best length lies between (Chen et al., *Training deep nets with sublinear memory cost*, 2016:
the square root of the number of layers).  Here beginnings are chosen among all steps, by the bytes
that are alive there.  The last values need not be computed again: their backward pass follows at
once, if the rank has one micro-batch at a time; if it has several, it holds them for each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

from ..display.cards import size_text
from ..errors import PlanError
from ..ir.program import Segments
from ..planner.plan import Plan
from .sample_ranks import sample_ranks
from .training_memory import TrainingMemory, bytes_from_system, held_at_once
from .weight_memory import PROCESS, bytes_beside_weights, held_weight_bytes

MOST_BEGINNINGS = 48
"""Steps among which beginnings are chosen: those with the fewest bytes alive around them."""
CLOSE = 1.05
"""Less is computed again if that takes up to so many times the least memory."""


@lru_cache(maxsize=64)
def segments_of(plan: Plan, rank: int, images: int | None = None) -> Segments:
    """Return the segments with which a rank needs little memory.

    Parameters
    ----------
    plan
        A plan for training.
    rank
        A rank of the plan.
    images
        Images in the micro-batch; by default the most.

    Returns
    -------
    Segments
        Those with little memory; of a plan with ``recompute_memory`` those that compute little
        again, of the ones with which the rank needs no more than that.

    Raises
    ------
    PlanError
        If the rank needs more than ``recompute_memory`` with any.
    """
    choice = _Choice(TrainingMemory(plan, rank, images=images))
    if plan.recompute_memory is None:
        return choice.least()
    beside = PROCESS + held_weight_bytes(plan, rank)
    beside += bytes_beside_weights(plan, rank)
    found = choice.within(plan.recompute_memory - beside)
    if (needed := choice.from_system(found) + beside) > plan.recompute_memory:
        raise PlanError(
            f"stage {plan.stage_of(rank).index} needs {size_text(needed)} a rank in training, with"
            " the values of all its segments computed again, but recompute_memory is"
            f" {size_text(plan.recompute_memory)}: use more tiles, parts or patches"
        )
    return found


@dataclass(frozen=True)
class _Choice:
    """The choice of segments for a program.

    Attributes
    ----------
    memory
        The memory of the program, if nothing is computed again.
    """

    memory: TrainingMemory

    @cached_property
    def at_once(self) -> int:
        """Micro-batches that the rank holds at once."""
        return held_at_once(self.memory.plan, self.memory.rank)

    @cached_property
    def beginnings(self) -> Sequence[int]:
        """The steps at which segments may begin, from 0 on, and the end of the program."""
        alive = [self._bytes(number) for number in range(self._count)]
        length = math.ceil(self._count / MOST_BEGINNINGS)
        windows = [range(k, min(k + length, self._count)) for k in range(0, self._count, length)]
        least = {min(window, key=lambda number: alive[number]) for window in windows}
        return [*sorted({0, *least}), self._count]

    @cached_property
    def _count(self) -> int:
        return len(self.memory.program.steps)

    def _bytes(self, number: int) -> int:
        """Bytes of the values alive before a step."""
        alive = self.memory.alive[number]
        return sum(self.memory.bytes_of(value, region) for value, region in alive.items())

    @cached_property
    def _added(self) -> dict[tuple[int, int], int]:
        """By two beginnings: bytes alive at the second one that were not at the first one."""
        found = {}
        for start in self.beginnings[:-1]:
            before = self.memory.alive[start]
            for stop in self.beginnings[:-1]:
                if start < stop:
                    found[start, stop] = sum(
                        self.memory.bytes_of(value, region)
                        for value, region in self.memory.alive[stop].items()
                        if before.get(value) != region
                    )
        return found

    @cached_property
    def _recorded(self) -> dict[tuple[int, int], int]:
        """By two beginnings: the most bytes that are recorded from one to the other."""
        held, found = [*self.memory.recorded, self.memory.saved], {}
        for start in self.beginnings[:-1]:
            most = 0
            for left, right in pairwise(self.beginnings):
                if left >= start:
                    most = max(most, *held[left : right + 1])
                    found[start, right] = most - held[start]
        return found

    def least(self) -> Segments:
        """The segments with little memory, and of those the ones that compute little again."""
        found = {stop: self._least_before(stop) for stop in self.beginnings}
        least = min(peak for peak, _ in found.values())
        return next(
            Segments(starts, stop if starts else 0)
            for stop, (peak, starts) in found.items()
            if peak <= CLOSE * least
        )

    def within(self, most: int) -> Segments:
        """The segments that compute little again, of those that need no more bytes.

        If none do, they are those with little memory.
        """
        low, high, found = 0, len(self.beginnings) - 1, None
        while low <= high:  # the later the values that are held begin, the less memory they need
            middle = (low + high) // 2
            stop = self.beginnings[middle]
            _, starts = self._least_before(stop)
            segments = Segments(starts, stop if starts else 0)
            if self.from_system(segments) <= most:
                high, found = middle - 1, segments
            else:
                low = middle + 1
        return self.least() if found is None else found

    def from_system(self, segments: Segments) -> int:
        """The bytes that the rank has from the system for its values."""
        whole = self.memory
        held = TrainingMemory(whole.plan, whole.rank, segments, whole.images)
        return bytes_from_system(whole, held, self.at_once)

    def _least_before(self, stop: int) -> tuple[float, tuple[int, ...]]:
        """The least memory, and beginnings, if segments end at a step and the rest is held."""
        end = self._count
        if stop == 0:
            return self.at_once * self._recorded[0, end], ()
        low, high = 0.0, float(self.at_once * (self._recorded[0, end] * 2 + self._bytes(0)) + 1)
        best: tuple[float, tuple[int, ...]] = (math.inf, (0,))
        for _ in range(12):
            most = (low + high) / 2
            starts = self._starts_within(most, stop)
            if starts is None:
                low = most
            else:
                high, best = most, (most, starts)
        return best

    def _starts_within(self, most: float, stop: int) -> tuple[int, ...] | None:
        """The beginnings of segments up to a step that need no more bytes; None if none do."""
        kept = {0: self.at_once * self._bytes(0)}  # bytes at beginnings up to this one
        before: dict[int, int] = {}
        inside = [number for number in self.beginnings if number <= stop]
        for right in inside[1:]:
            for left in (number for number in inside if number < right and number in kept):
                if kept[left] + self._recorded[left, right] > most:
                    continue
                if right == self._count:
                    bytes_kept = kept[left]
                else:
                    bytes_kept = kept[left] + self.at_once * self._added[left, right]
                if bytes_kept < kept.get(right, math.inf):
                    kept[right], before[right] = bytes_kept, left
        held = self.at_once * self._recorded[stop, self._count] if stop < self._count else 0
        if stop not in kept or kept[stop] + held > most:
            return None
        starts = []
        while stop:
            stop = before[stop]
            starts.append(stop)
        return tuple(reversed(starts))


def refuse_too_little_memory(plan: Plan) -> None:
    """Refuse a plan with ``recompute_memory`` that a rank of a stage cannot keep.

    Raises
    ------
    PlanError
        Naming the stage, both numbers, and what to do.
    """
    for stage in plan.stages:
        for rank in sample_ranks(plan, stage.index):
            segments_of(plan, rank)
