"""Copies of a plan that share a batch: whole replicas side by side, and GEMS's mirrored ones.

Each copy is a pipeline, the plan's ranks at some ranks of the world, and takes some of the
micro-batches.  With two replicas, each mirrored (GEMS), of a plan of three ranks::

    world rank            0  1  2    3  4  5
    replica 0             0  1  2                rank of the plan that it is
    replica 0, mirrored   2  1  0
    replica 1                        0  1  2
    replica 1, mirrored              2  1  0

Parameters are the same in all of them: gradients are summed over every rank that has one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Pipeline:
    """One copy of a plan.

    Attributes
    ----------
    ranks
        Of the world, for each rank of the plan.
    turns
        Numbers of the micro-batches that it takes at one go, for each time that it is its turn.
    mirrored
        Whether its ranks are in the reversed order.
    """

    ranks: Sequence[int]
    turns: tuple[range, ...]
    mirrored: bool = False

    @property
    def numbers(self) -> list[int]:
        """The micro-batches that it takes."""
        return [number for turn in self.turns for number in turn]


def turns_of(
    pipelines: Sequence[Pipeline], stages: Sequence[int]
) -> list[tuple[int, int, Sequence[int]]]:
    """Turns of a rank in order: number of the pipeline, its stage there, and the micro-batches.

    >>> turns_of(Replicas(2, times=1).of(0), stages=[0, 1])
    [(0, 0, range(0, 1)), (1, 1, range(1, 2))]
    """
    turns = [
        (number, stage, turn)
        for number, (pipeline, stage) in enumerate(zip(pipelines, stages, strict=True))
        for turn in pipeline.turns
    ]
    return sorted(turns, key=lambda turn: turn[2][0])


@dataclass(frozen=True)
class Replicas:
    """How often a plan is there.

    Parameters
    ----------
    ranks_each
        Ranks of the plan.
    micro_batches
        Micro-batches that a pipeline takes in a turn.
    count
        Replicas side by side, each on ranks of its own.
    times
        Pairs of turns of a replica and its mirror image; 0 where there is none.
    overlapped
        Whether gradients are summed as soon as they are known, rather than at the end of a step.

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
        """Ranks of all copies; mirrored ones have none of their own."""
        return self.ranks_each * self.count

    @property
    def turns(self) -> int:
        """Of a replica and its mirror image, in a step."""
        return 2 * self.times or 1

    @property
    def num_micro_batches(self) -> int:
        """Micro-batches of a step."""
        return self.micro_batches * self.turns * self.count

    def of(self, replica: int) -> tuple[Pipeline, ...]:
        """A replica's pipeline, and the mirrored one if there is one."""
        first, n = replica * self.ranks_each, self.ranks_each
        starts = range(replica * self.turns, (replica + 1) * self.turns)
        turns = [range(k * self.micro_batches, (k + 1) * self.micro_batches) for k in starts]
        if not self.times:
            return (Pipeline(range(first, first + n), tuple(turns)),)
        there, back = range(first, first + n), range(first + n - 1, first - 1, -1)
        return (
            Pipeline(there, tuple(turns[::2])),
            Pipeline(back, tuple(turns[1::2]), mirrored=True),
        )

    def everywhere(self, ranks: Sequence[int]) -> Sequence[int]:
        """Where ranks of the plan are in the world, in all copies.

        >>> Replicas(3, count=2, times=1).everywhere([0])
        (0, 2, 3, 5)
        """
        if self.count == 1 and not self.times:
            return ranks
        pipelines = [p for k in range(self.count) for p in self.of(k)]
        return tuple(sorted({p.ranks[rank] for p in pipelines for rank in ranks}))

    def taking(self, number: int) -> Pipeline:
        """The pipeline that takes a micro-batch.

        >>> list(Replicas(3, count=2, times=1).taking(1).ranks)
        [2, 1, 0]
        """
        turn = number // self.micro_batches
        pipelines = self.of(turn // self.turns)
        return pipelines[turn % len(pipelines)]
