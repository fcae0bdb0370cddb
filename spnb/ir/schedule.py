"""Orders of work, as data: which micro-batch passes through which stage at which tick.

A *pass* takes one micro-batch forward or backward through a stage.  A *turn* is a group of
micro-batches that a pipeline takes together; with mirrored pipelines, turns alternate.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple


def micro_batches(batch: int, count: int) -> tuple[int, ...]:
    """Return the number of images in each micro-batch: as even as whole images allow.

    Parameters
    ----------
    batch
        Images in the batch.
    count
        Micro-batches.

    Examples
    --------
    >>> micro_batches(5, 3)
    (1, 2, 2)
    """
    return tuple(batch * (k + 1) // count - batch * k // count for k in range(count))


class Pass(NamedTuple):
    """One micro-batch through one stage.

    Attributes
    ----------
    kind
        ``"forward"`` or ``"backward"``.
    number
        Number of the micro-batch.
    """

    kind: str
    number: int


class Turn(NamedTuple):
    """The micro-batches that a rank computes in one of its pipelines before it changes to another.

    Attributes
    ----------
    pipeline
        Number of the pipeline among those of the rank.
    stage
        The stage that the rank has there.
    numbers
        Numbers of the micro-batches.
    """

    pipeline: int
    stage: int
    numbers: Sequence[int]


class RankPass(NamedTuple):
    """A pass on a rank that is in several pipelines.

    Attributes
    ----------
    pipeline
        Number of the pipeline among those of the rank.
    kind, number
        As in a `Pass`.
    """

    pipeline: int
    kind: str
    number: int


Order = Callable[[int, int, int], list[Pass]]
"""Gives the passes of a stage in order, from the number of micro-batches, of stages, and the
stage's own."""


def forward_only(count: int, stages: int, stage: int) -> list[Pass]:
    """Return the passes of a stage in inference.

    Four micro-batches through three stages (a cell names the micro-batch)::

        tick      0   1   2   3   4   5
        stage 0   0   1   2   3
        stage 1       0   1   2   3
        stage 2           0   1   2   3

    (Huang et al., *GPipe*, 2019, figure 2.)

    >>> forward_only(2, stages=3, stage=1)
    [Pass(kind='forward', number=0), Pass(kind='forward', number=1)]
    """
    return [Pass("forward", number) for number in range(count)]


def all_forward_first(count: int, stages: int, stage: int) -> list[Pass]:
    """Return the passes of a stage in training: every forward pass, then every backward pass.

    Two stages, three micro-batches (``B`` marks backward)::

        tick      0   1   2   3   4   5   6   7
        stage 0   0   1   2       ·   B2  B1  B0
        stage 1       0   1   2   B2  B1  B0

    All micro-batches are held at once (Huang et al., *GPipe*, 2019).

    >>> [each.number for each in all_forward_first(2, stages=2, stage=0)]
    [0, 1, 1, 0]
    """
    forward = forward_only(count, stages, stage)
    return forward + [Pass("backward", number) for number in reversed(range(count))]


def one_forward_one_backward(count: int, stages: int, stage: int) -> list[Pass]:
    """Return the passes of a stage in training: each goes backward as soon as it can.

    Two stages, three micro-batches (``B`` marks backward)::

        tick      0   1   2   3   4   5   6   7
        stage 0   0   1       B0  2   B1      B2
        stage 1       0   B0  1   B1  2   B2

    A stage holds at most as many micro-batches as there are stages from it to the last one
    (Narayanan et al., *PipeDream*, 2019).

    >>> [each.kind for each in one_forward_one_backward(2, stages=2, stage=1)]
    ['forward', 'backward', 'forward', 'backward']
    """
    ahead = min(count, stages - stage)
    found = [Pass("forward", number) for number in range(ahead)]
    for number in range(count):
        found.append(Pass("backward", number))
        if ahead + number < count:
            found.append(Pass("forward", ahead + number))
    return found


def most_held(passes: Sequence[Pass]) -> int:
    """Return the most micro-batches that have gone forward and not yet backward.

    >>> [most_held(one_forward_one_backward(8, stages=3, stage=stage)) for stage in range(3)]
    [3, 2, 1]
    """
    steps = (1 if each.kind == "forward" else -1 for each in passes)
    return max(itertools.accumulate(steps))


def in_turns(order: Order, stages: int, turns: Sequence[Turn]) -> list[RankPass]:
    """Return the passes of a rank in training, turn after turn.

    A rank finishes the backward passes of one turn before it begins the next, so it never holds
    micro-batches of two pipelines.  Mirrored pipelines lose little time by this: a turn begins on
    the rank with the last stage of the turn before, which was the first to finish that turn's
    backward passes.
    Two stages on two ranks, two micro-batches in each turn; 2 and 3 belong to the mirrored
    pipeline, whose first stage is on rank 1::

        tick      0   1   2   3   4   5   6   7   8   9   10
        rank 0    0   1       B0      B1  2   B2  3   B3
        rank 1        0   B0  1   B1  2   3       B2      B3

    (Jain et al., *GEMS: GPU-enabled memory-aware model-parallelism system for distributed DNN
    training*, 2020.)

    >>> in_turns(one_forward_one_backward, 2, [Turn(1, 0, [3])])[1]
    RankPass(pipeline=1, kind='backward', number=3)
    """
    return [
        RankPass(turn.pipeline, each.kind, turn.numbers[each.number])
        for turn in turns
        for each in order(len(turn.numbers), stages, turn.stage)
    ]


def at_once(turns: Sequence[Turn]) -> list[Turn]:
    """Return the turns of a rank in inference: one micro-batch in each, pipelines interleaved.

    Turns are ordered by the ticks at which their passes would run if all pipelines began together.
    This order is the same on all ranks, so no two ranks wait for each other.  In this example with
    two stages on two ranks, 2 and 3 belong to the mirrored pipeline; its first stage is on rank 1::

        tick      0   1   2   3
        rank 0    0   1   2   3
        rank 1    2   0   3   1

    >>> [turn.numbers for turn in at_once([Turn(0, 1, [0, 1]), Turn(1, 0, [2, 3])])]
    [[2], [0], [3], [1]]
    """
    begun: Counter[int] = Counter()
    ticks = []
    for pipeline, stage, numbers in turns:
        for number in numbers:
            ticks.append((begun[pipeline] + stage, pipeline, stage, number))
            begun[pipeline] += 1
    return [Turn(pipeline, stage, [number]) for _, pipeline, stage, number in sorted(ticks)]


class _Task(NamedTuple):
    """A pass, its stage and its pipeline."""

    pipeline: int
    stage: int
    work: Pass


def clock(order: Order, stages: int, rows: Sequence[Sequence[Turn]]) -> list[dict[int, Pass]]:
    """Return the ticks of a training step or of an inference run; each maps a row to its pass.

    Each pass takes one tick.  It runs as soon as the pass that it depends on is over, and all rows
    of its stage are free.

    Parameters
    ----------
    order
        Order of a stage's passes.
    stages
        Number of stages.
    rows
        The turns of each rank, or of one rank per stage.

    Examples
    --------
    >>> for tick in clock(all_forward_first, 2, [[Turn(0, 0, [0])], [Turn(0, 1, [0])]]):
    ...     print({row: each.kind for row, each in tick.items()})
    {0: 'forward'}
    {1: 'forward'}
    {1: 'backward'}
    {0: 'backward'}
    """
    queues = [deque(in_turns(order, stages, turns)) for turns in rows]
    stage_of = [{turn.pipeline: turn.stage for turn in turns} for turns in rows]
    done: set[tuple[int, Pass]] = set()  # stages and passes
    ticks: list[dict[int, Pass]] = []
    while any(queues):
        heads = [_head(queue, known) for queue, known in zip(queues, stage_of, strict=True)]
        running = {
            row: task
            for row, task in enumerate(heads)
            if task is not None
            and _may_begin(task, stages, done)
            and all(heads[k] == task for k in _sharers(task, stage_of))
        }
        assert running, "two stages wait for each other"
        for row, task in running.items():
            queues[row].popleft()
            done.add((task.stage, task.work))
        ticks.append({row: task.work for row, task in running.items()})
    return ticks


def _head(queue: deque[RankPass], stage_of: Mapping[int, int]) -> _Task | None:
    """The next pass of a row, if it has one left."""
    if not queue:
        return None
    first = queue[0]
    return _Task(first.pipeline, stage_of[first.pipeline], Pass(first.kind, first.number))


def _may_begin(task: _Task, stages: int, done: set[tuple[int, Pass]]) -> bool:
    """Whether the pass that a task depends on is done."""
    before = task.stage - 1 if task.work.kind == "forward" else task.stage + 1
    return not 0 <= before < stages or (before, task.work) in done


def _sharers(task: _Task, stage_of: Sequence[Mapping[int, int]]) -> list[int]:
    """The rows that compute a task's stage."""
    return [row for row, known in enumerate(stage_of) if known.get(task.pipeline) == task.stage]


SCHEDULES: dict[str, Order] = {"gpipe": all_forward_first, "1f1b": one_forward_one_backward}
"""Orders of passes in training, by the value of the option ``schedule``."""
