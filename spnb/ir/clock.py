"""Which micro-batch is in which stage at which tick, as a table with names."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ClockTable:
    """The passes of the micro-batches of one replica, tick by tick.

    Attributes
    ----------
    ticks
        For each tick and busy row, the pass (``"forward"`` or ``"backward"``) and the micro-batch.
    rows
        Names of the rows: stages; ranks if there is a mirrored replica, as each has two stages.
    mirrored
        The micro-batches that the mirrored replica computes.
    title
        A sentence for the title, such as ``"3 micro-batches through 2 stages"``.
    """

    ticks: Sequence[Mapping[int, tuple[str, int]]]
    rows: Sequence[str]
    mirrored: Collection[int]
    title: str

    @property
    def idle(self) -> float:
        """Share of the rows' ticks in which nothing is computed."""
        return 1 - sum(map(len, self.ticks)) / len(self.ticks) / len(self.rows)
