"""How much of each short span of time each rank spent on what, from what ranks publish."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..display.kinds import KIND, REST

LIVE = {
    "compute": KIND["compute"],
    "forward": KIND["compute"],
    "backward": "#D55E00",
    **{kind: KIND[kind] for kind in ("read", "pack", "unpack", "wait")},
    "between": "#999999",
    "done": REST["done"],
}
"""What a rank may do now, and its colour; between: what is no pass of a training."""

SLOTS = 120
"""Most spans of time that are shown; of a longer run, each is twice as long."""

FIRST = 0.25
"""Seconds of a span at the beginning."""


class ActivityGrid:
    """The share of each kind of work in each span of time, for each rank.

    Parameters
    ----------
    num_ranks
        Number of ranks.

    Attributes
    ----------
    step
        Seconds of a span.
    seconds
        ``(ranks, spans, kinds)``: seconds of each kind of `LIVE` in each span.

    Examples
    --------
    >>> grid = ActivityGrid(1)
    >>> grid.add(0, {"time": 0.5, "spent": {"compute": 0.3, "wait": 0.1}})
    >>> grid.add(0, {"time": 1.0, "spent": {"compute": 0.8, "wait": 0.1}})
    >>> grid.shares(0)[1]
    {'compute': 0.6, 'wait': 0.2}
    >>> grid.shares(0)[2]
    {'compute': 1.0}
    """

    def __init__(self, num_ranks: int):
        self.step = FIRST
        self.seconds = np.zeros((num_ranks, SLOTS, len(LIVE)))
        self._last: list[tuple[float, Mapping[str, float]]] = [(0.0, {})] * num_ranks

    def add(self, rank: int, figures: Mapping[str, Any]) -> None:
        """Add what a rank did since its last figures; those that are not newer add nothing."""
        since, before = self._last[rank]
        time, spent = figures["time"], figures["spent"]
        if time <= since:
            return
        while time > self.step * SLOTS:
            self._halve()
        edges = np.clip(np.arange(SLOTS + 1) * self.step, since, time)
        parts = np.diff(edges) / (time - since)
        for number, kind in enumerate(LIVE):
            more = spent.get(kind, 0.0) - before.get(kind, 0.0)
            self.seconds[rank, :, number] += more * parts
        self._last[rank] = time, spent

    def _halve(self) -> None:
        """Make each span twice as long."""
        pairs = self.seconds.reshape(len(self.seconds), SLOTS // 2, 2, len(LIVE)).sum(axis=2)
        self.seconds = np.concatenate([pairs, np.zeros_like(pairs)], axis=1)
        self.step *= 2

    def shares(self, rank: int) -> list[dict[str, float]]:
        """For each span that a rank has reached, the share of each kind that it has.

        Of the last span, only the part that is over counts.
        """
        time = self._last[rank][0]
        starts = np.arange(int(np.ceil(time / self.step))) * self.step
        lengths = np.minimum(self.step, time - starts)[:, None]
        rows = (self.seconds[rank, : len(starts)] / lengths).round(3).tolist()
        return [
            {kind: share for kind, share in zip(LIVE, row, strict=True) if share} for row in rows
        ]


def latest(
    published: Sequence[Mapping[str, Any]], of: Mapping[str, int]
) -> list[Mapping[str, Any]]:
    """The last figures of each rank; empty where they are of another run or epoch.

    >>> latest([{"run": 3, "time": 1}, {"run": 2, "time": 9}], {"run": 3})
    [{'run': 3, 'time': 1}, {}]
    """
    (name, number), *_ = of.items()
    return [each if each.get(name) == number else {} for each in published]
