"""Which micro-batch is in which stage at which tick, as data."""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Callable, Sequence


def micro_batches(batch: int, count: int) -> tuple[int, ...]:
    """Images in each micro-batch: as even as whole images allow.

    >>> micro_batches(5, 3)
    (1, 2, 2)
    """
    return tuple(batch * (k + 1) // count - batch * k // count for k in range(count))


Pass = tuple[str, int]
"""``"forward"`` or ``"backward"``, and the number of a micro-batch."""

Order = Callable[[int, int, int], list[Pass]]
"""Passes of a stage, for so many micro-batches and stages."""


def forward_only(count: int, stages: int, stage: int) -> list[Pass]:
    """Passes of a stage in inference.

    Four micro-batches through three stages (a cell names the micro-batch)::

        tick      0   1   2   3   4   5
        stage 0   0   1   2   3
        stage 1       0   1   2   3
        stage 2           0   1   2   3

    (Huang et al., *GPipe*, 2019, figure 2.)

    >>> forward_only(2, stages=3, stage=1)
    [('forward', 0), ('forward', 1)]
    """
    return [("forward", number) for number in range(count)]


def all_forward_first(count: int, stages: int, stage: int) -> list[Pass]:
    """Passes of a stage in training: every forward pass, then every backward pass.

    Two stages, three micro-batches (``B`` marks backward)::

        tick      0   1   2   3   4   5   6   7
        stage 0   0   1   2       ·   B2  B1  B0
        stage 1       0   1   2   B2  B1  B0

    All micro-batches are held at once (Huang et al., *GPipe*, 2019).

    >>> all_forward_first(2, stages=2, stage=0)
    [('forward', 0), ('forward', 1), ('backward', 1), ('backward', 0)]
    """
    forward = forward_only(count, stages, stage)
    return forward + [("backward", number) for number in reversed(range(count))]


def one_forward_one_backward(count: int, stages: int, stage: int) -> list[Pass]:
    """Passes of a stage in training: as soon as a micro-batch can go back, it does.

    Two stages, three micro-batches (``B`` marks backward)::

        tick      0   1   2   3   4   5   6   7
        stage 0   0   1       B0  2   B1      B2
        stage 1       0   B0  1   B1  2   B2

    A stage holds no more micro-batches than there are stages from it on (Narayanan et al.,
    *PipeDream*, 2019).

    >>> one_forward_one_backward(2, stages=2, stage=1)
    [('forward', 0), ('backward', 0), ('forward', 1), ('backward', 1)]
    """
    ahead = min(count, stages - stage)
    found = [("forward", number) for number in range(ahead)]
    for number in range(count):
        found.append(("backward", number))
        if ahead + number < count:
            found.append(("forward", ahead + number))
    return found


def most_held(passes: Sequence[Pass]) -> int:
    """Most micro-batches that went forward and have not come back.

    >>> [most_held(one_forward_one_backward(8, stages=3, stage=stage)) for stage in range(3)]
    [3, 2, 1]
    """
    steps = (1 if kind == "forward" else -1 for kind, _ in passes)
    return max(itertools.accumulate(steps))


Turn = tuple[int, int, Sequence[int]]
"""Of a rank: which of its pipelines, the stage that it has there, and the micro-batches."""


def in_turns(order: Order, stages: int, turns: Sequence[Turn]) -> list[tuple[int, str, int]]:
    """Passes of a rank that is in several pipelines, each with the number of its pipeline.

    It comes back from all of one turn before it begins the next, and so never holds more than one
    pipeline's micro-batches.  Mirrored pipelines meet there: a turn begins on the rank where the
    one before ends last forward, and first backward.  Two stages on two ranks, two micro-batches
    in each turn, 2 and 3 by the mirrored pipeline, whose first stage rank 1 has::

        tick      0   1   2   3   4   5   6   7   8   9   10
        rank 0    0   1       B0      B1  2   B2  3   B3
        rank 1        0   B0  1   B1  2   3       B2      B3

    (Jain et al., *GEMS: GPU-enabled memory-aware model-parallelism system for distributed DNN
    training*, 2020.)

    >>> in_turns(one_forward_one_backward, 2, [(0, 1, [0]), (1, 0, [1])])
    [(0, 'forward', 0), (0, 'backward', 0), (1, 'forward', 1), (1, 'backward', 1)]
    """
    return [
        (pipeline, kind, numbers[k])
        for pipeline, stage, numbers in turns
        for kind, k in order(len(numbers), stages, stage)
    ]


def at_once(turns: Sequence[Turn]) -> list[Turn]:
    """Turns of a rank in inference: its pipelines run at the same time, and fill each other's gaps.

    One micro-batch is a turn, and turns are in the order of ticks that they would have if all
    pipelines began at once; that is one order for all ranks, so no two wait for each other.  Two
    stages on two ranks, where 2 and 3 are of the mirrored pipeline, whose first stage rank 1 has::

        tick      0   1   2   3
        rank 0    0   1   2   3
        rank 1    2   0   3   1

    >>> at_once([(0, 1, [0, 1]), (1, 0, [2, 3])])
    [(1, 0, [2]), (0, 1, [0]), (1, 0, [3]), (0, 1, [1])]
    """
    begun: Counter[int] = Counter()
    ticks = []
    for pipeline, stage, numbers in turns:
        for number in numbers:
            ticks.append((begun[pipeline] + stage, pipeline, stage, number))
            begun[pipeline] += 1
    return [(pipeline, stage, [number]) for _, pipeline, stage, number in sorted(ticks)]


def clock(
    order: Order, stages: int, rows: Sequence[Sequence[Turn]]
) -> list[dict[int, tuple[str, int]]]:
    """Ticks of a step, or of a run: by row, the kind and the micro-batch of the pass there.

    Each pass takes one tick, as soon as the one before it is over and all that share it are free.

    Parameters
    ----------
    rows
        The turns of each rank, or of one that stands for its stage.

    Examples
    --------
    >>> for tick in clock(all_forward_first, 2, [[(0, 0, [0])], [(0, 1, [0])]]):
    ...     print(tick)
    {0: ('forward', 0)}
    {1: ('forward', 0)}
    {1: ('backward', 0)}
    {0: ('backward', 0)}
    """
    queues = [deque(in_turns(order, stages, turns)) for turns in rows]
    stage_of = [{pipeline: stage for pipeline, stage, _ in turns} for turns in rows]
    done: set[tuple[int, str, int]] = set()
    ticks: list[dict[int, tuple[str, int]]] = []
    while any(queues):
        heads = [
            (pipeline, kind, number, stage_of[row][pipeline]) if queue else None
            for row, queue in enumerate(queues)
            for pipeline, kind, number in [queue[0] if queue else (0, "", 0)]
        ]
        tick = {}
        for row, head in enumerate(heads):
            if head is None:
                continue
            pipeline, kind, number, stage = head
            before = stage - 1 if kind == "forward" else stage + 1
            free = not 0 <= before < stages or (kind, number, before) in done
            sharers = (k for k, known in enumerate(stage_of) if known.get(pipeline) == stage)
            if free and all(heads[k] == head for k in sharers):
                tick[row] = (kind, number)
        assert tick, "two stages wait for each other"
        for row in tick:
            queues[row].popleft()
            done.add(heads[row][1:])
        ticks.append(tick)
    return ticks


SCHEDULES = {"gpipe": all_forward_first, "1f1b": one_forward_one_backward}
"""Orders of passes, by the names that they go by."""
