"""What a rank does now in a run or a training, published for the caller's live picture."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ..runtime.trace import Recorder
from .progress import Publish, Throttled

TOGETHER = 0.01
"""Seconds; two looks with a shorter time between belong to one wait."""


class Activity:
    """The activity of a rank: its last figures, and whether it waits.

    A rank that waits has no operator to report, so the transport calls `waits` meanwhile.  Between
    two publications, only the time is looked at.

    Parameters
    ----------
    publish
        Makes figures visible to the caller.

    Examples
    --------
    >>> seen = []
    >>> activity = Activity(seen.append)
    >>> activity.report(epoch=0, steps=0)
    >>> activity.turn("forward", stage=0, micro_batch=3)
    >>> activity.report(last=True, steps=1)
    >>> seen[-1]["now"], seen[-1]["micro_batch"], sorted(seen[-1]["spent"])
    ('forward', 3, ['between', 'forward'])
    """

    def __init__(self, publish: Publish):
        self._publish = Throttled(publish)
        self._figures: Mapping[str, Any] = {}
        self._recorder: Recorder | None = None
        self._spent: dict[str, float] = {}
        self._kind, self._stage, self._micro_batch = "between", 0, 0
        self._origin = self._since = self._looked = self._wait_began = time.perf_counter()
        self._waited = 0.0

    def turn(self, kind: str, stage: int, micro_batch: int) -> None:
        """Note that another pass begins; its kind is "forward", "backward" or "between"."""
        self._close()
        self._kind, self._stage, self._micro_batch = kind, stage, micro_batch
        if self._publish.is_due:
            self._publish(self._now(kind))

    def report(
        self, recorder: Recorder | None = None, last: bool = False, **figures: float
    ) -> None:
        """Publish figures, if it is time.

        Parameters
        ----------
        recorder
            Collects the events of the run, if something does.
        last
            Whether these are the last figures, which are published in any case.
        **figures
            The figures.
        """
        self._figures = {**self._figures, **figures}
        self._recorder = recorder
        if last or self._publish.is_due:
            self._publish(self._now("compute" if recorder else self._kind), last)

    def waits(self) -> None:
        """Note that the rank waits at this moment."""
        now = time.perf_counter()
        if now - self._looked < TOGETHER:
            self._waited += now - self._looked
        else:
            self._wait_began = now
        self._looked = now
        if self._figures and self._publish.is_due:
            self._publish(self._now("wait"))

    def _close(self) -> None:
        """Count the time since the last turn."""
        now = time.perf_counter()
        waited = min(self._waited, now - self._since)
        for kind, seconds in ((self._kind, now - self._since - waited), ("wait", waited)):
            if seconds:
                self._spent[kind] = self._spent.get(kind, 0.0) + seconds
        self._since, self._waited = now, 0.0

    def _now(self, kind: str) -> dict[str, Any]:
        self._close()
        recorder, place = self._recorder, (self._stage, self._micro_batch)
        spent = dict(self._spent if recorder is None else recorder.spent)
        if recorder is not None:
            place = recorder.stage, recorder.micro_batch
            if kind == "wait":  # a recorder knows of it when it has ended
                spent["wait"] = spent.get("wait", 0.0) + self._since - self._wait_began
        return {
            **self._figures,
            "stage": place[0],
            "micro_batch": place[1],
            "now": kind,
            "spent": spent,
            "time": self._since - self._origin,
        }
