"""The splits that were not planned yet, the most promising of them first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .estimates import Estimate
from .splits import Split
from .tuned import Candidate


class WaitingSplits:
    """Splits with their estimates, of which one after another is taken.

    Parameters
    ----------
    splits, estimates
        The splits, and what arithmetic foresees of each.
    """

    def __init__(self, splits: Sequence[Split], estimates: Sequence[Estimate]):
        self._splits, self._estimates = splits, estimates
        self._seconds = np.log([each.seconds for each in estimates])
        self._memory = np.log([each.memory for each in estimates])
        self._ranks = np.log([each.ranks for each in splits])
        # Plans with patches take the longest to make, so they are made later.
        self._haste = np.array([0.5 if each.patches > 1 else 1.0 for each in splits])
        self._left = np.ones(len(splits), bool)
        self._kinds = np.array([hash((s.tiles, s.stages, s.tiled)) for s in splits])
        self._corrected: set[int] = set()

    def __len__(self) -> int:
        return int(self._left.sum())

    def ahead(self, found: Sequence[Candidate]) -> np.ndarray:
        """How far each estimate is ahead of all plans: a logarithm, most of all of its time.

        It is not above 0 for a split that a plan beats in time, memory and ranks, and minus
        infinity for one that was taken.
        """
        if not found:
            gains = self._seconds.max(initial=0.0) + 1 - self._seconds
        else:
            gains = np.full(len(self._splits), np.inf)
        for each in found:
            of_each = (
                np.log(each.seconds) - self._seconds,
                (np.log(each.memory) - self._memory) / 2,
                (np.log(each.plan.num_ranks) - self._ranks) / 4,
            )
            gains = np.minimum(gains, np.maximum.reduce(of_each))
        return np.where(self._left, gains * self._haste, -np.inf)

    def take(self, found: Sequence[Candidate]) -> int | None:
        """Take the split that is farthest ahead of all plans; None if none is ahead."""
        if not len(self):
            return None
        ahead = self.ahead(found)
        number = int(ahead.argmax())
        if ahead[number] <= 0:
            return None
        self._left[number] = False
        return number

    def split(self, number: int) -> tuple[Split, Estimate]:
        """The split of a number, and its estimate."""
        return self._splits[number], self._estimates[number]

    def correct(self, number: int, seconds: float) -> None:
        """Let others of as many tiles and stages be as much slower than estimated, too."""
        kind, more = int(self._kinds[number]), float(np.log(seconds) - self._seconds[number])
        if kind not in self._corrected and more > 0:
            self._corrected.add(kind)
            self._seconds[self._kinds == kind] += more
