"""Copies of a plan that share a batch: replicas side by side, and GEMS's mirrored pipelines.

Each pipeline maps the plan's ranks to ranks of the world, and takes some of the micro-batches.
Two replicas of a plan of three ranks, each with a mirrored pipeline (GEMS)::

    rank of the world             0  1  2    3  4  5
    rank of the plan that it is
      replica 0                   0  1  2
      replica 0, mirrored         2  1  0
      replica 1                            0  1  2
      replica 1, mirrored                  2  1  0

Parameters are the same in all of them: gradients are summed over every rank that has one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .schedule import Turn


@dataclass(frozen=True)
class Pipeline:
    """The ranks that one copy of a plan runs on, and its micro-batches.

    Attributes
    ----------
    ranks
        For each rank of the plan, the rank of the world.
    turns
        Numbers of the micro-batches of each of its turns.
    mirrored
        Whether its ranks are in the reversed order.
    """

    ranks: Sequence[int]
    turns: tuple[range, ...]
    mirrored: bool = False

    @property
    def numbers(self) -> list[int]:
        """Numbers of all its micro-batches."""
        return [number for turn in self.turns for number in turn]


def turns_of(pipelines: Sequence[Pipeline], stages: Sequence[int]) -> list[Turn]:
    """Return the turns of a rank in order.

    Parameters
    ----------
    pipelines
        The pipelines that the rank is in.
    stages
        Its stage in each of them.

    Examples
    --------
    >>> turns_of(Replicas(2, times=1).of(0), stages=[0, 1])[1]
    Turn(pipeline=1, stage=1, numbers=range(1, 2))
    """
    turns = [
        Turn(number, stage, numbers)
        for number, (pipeline, stage) in enumerate(zip(pipelines, stages, strict=True))
        for numbers in pipeline.turns
    ]
    return sorted(turns, key=lambda turn: turn.numbers[0])


@dataclass(frozen=True)
class Replicas:
    """How many copies of a plan there are, and which micro-batches each takes.

    Parameters
    ----------
    ranks_each
        Ranks of the plan.
    micro_batches
        Micro-batches that a pipeline takes in a turn.
    count
        Replicas side by side, each on ranks of its own.
    times
        Pairs of turns in a step, one of a replica and one of its mirrored pipeline; 0 without
        mirrored pipelines.
    overlapped
        Whether gradients are summed as soon as they are computed, not at the end of a step.

    Examples
    --------
    >>> replicas = Replicas(3, micro_batches=2, count=2, times=1)
    >>> replicas.num_ranks, replicas.num_micro_batches
    (6, 8)
    >>> [(list(p.ranks), [list(turn) for turn in p.turns]) for p in replicas.of(replica=1)]
    [([3, 4, 5], [[4, 5]]), ([5, 4, 3], [[6, 7]])]
    """

    ranks_each: int
    micro_batches: int = 1
    count: int = 1
    times: int = 0
    overlapped: bool = True

    @property
    def num_ranks(self) -> int:
        """Ranks of all replicas; mirrored pipelines run on the same ranks."""
        return self.ranks_each * self.count

    @property
    def turns(self) -> int:
        """Turns of a replica in a step, those of its mirrored pipeline included."""
        return 2 * self.times or 1

    @property
    def num_micro_batches(self) -> int:
        """Micro-batches of a step."""
        return self.micro_batches * self.turns * self.count

    def of(self, replica: int) -> tuple[Pipeline, ...]:
        """Return the pipeline of a replica, and its mirrored pipeline if there is one."""
        first, n = replica * self.ranks_each, self.ranks_each
        starts = range(replica * self.turns, (replica + 1) * self.turns)
        turns = [range(k * self.micro_batches, (k + 1) * self.micro_batches) for k in starts]
        if not self.times:
            return (Pipeline(range(first, first + n), tuple(turns)),)
        ranks = range(first, first + n)
        return (
            Pipeline(ranks, tuple(turns[::2])),
            Pipeline(ranks[::-1], tuple(turns[1::2]), mirrored=True),
        )

    def everywhere(self, ranks: Sequence[int]) -> Sequence[int]:
        """Return the ranks of the world, in all pipelines, that some ranks of the plan are on.

        >>> Replicas(3, count=2, times=1).everywhere([0])
        (0, 2, 3, 5)
        """
        if self.count == 1 and not self.times:
            return ranks
        pipelines = [p for k in range(self.count) for p in self.of(k)]
        return tuple(sorted({p.ranks[rank] for p in pipelines for rank in ranks}))

    def taking(self, number: int) -> Pipeline:
        """Return the pipeline that takes a micro-batch.

        >>> list(Replicas(3, count=2, times=1).taking(1).ranks)
        [2, 1, 0]
        """
        turn = number // self.micro_batches
        pipelines = self.of(turn // self.turns)
        return pipelines[turn % len(pipelines)]
