"""Publishes the progress of a rank in a run or an epoch, for the caller to show."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

PUBLISH_EVERY = 0.2  # seconds

Publish = Callable[[Mapping[str, Any]], None]
"""Makes figures visible to the caller, in place of the figures published before."""


class Throttled:
    """Publishes at most every 0.2 seconds, even if it is called more often.

    Examples
    --------
    >>> seen = []
    >>> publish = Throttled(seen.append)
    >>> for done in range(100):
    ...     publish({"done": done})
    >>> publish({"done": 100}, last=True)
    >>> seen[0], seen[-1]
    ({'done': 0}, {'done': 100})
    """

    def __init__(self, publish: Publish):
        self._publish, self._published_at = publish, -PUBLISH_EVERY

    @property
    def is_due(self) -> bool:
        """Whether figures would be published now."""
        return time.monotonic() - self._published_at > PUBLISH_EVERY

    def __call__(self, figures: Mapping[str, Any], last: bool = False) -> None:
        if last or self.is_due:
            self._published_at = time.monotonic()
            self._publish(figures)
