"""Which micro-batch is in which stage at which tick, as data."""

from __future__ import annotations

from collections.abc import Iterator


def forward_clock(parts: int, stages: int) -> Iterator[list[tuple[int, int]]]:
    """Ticks of a forward pipeline, each a list of ``(micro-batch, stage)`` that run at once.

    Four micro-batches through three stages (a cell names the micro-batch)::

        tick      0  1  2  3  4  5
        stage 0   0  1  2  3
        stage 1      0  1  2  3
        stage 2         0  1  2  3

    (Huang et al., *GPipe*, 2019, figure 2.)

    Examples
    --------
    >>> list(forward_clock(parts=2, stages=2))
    [[(0, 0)], [(1, 0), (0, 1)], [(1, 1)]]
    """
    for tick in range(parts + stages - 1):
        first = max(0, tick - parts + 1)
        yield [(tick - stage, stage) for stage in range(first, min(tick + 1, stages))]


def micro_batches(batch: int, parts: int) -> tuple[int, ...]:
    """Images in each micro-batch: as even as whole images allow.

    >>> micro_batches(5, 3)
    (1, 2, 2)
    """
    return tuple(batch * (k + 1) // parts - batch * k // parts for k in range(parts))
