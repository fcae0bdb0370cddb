"""Shows a run or an epoch while it is under way: a widget in a notebook, or a bar."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ..display.progress import Bar, notebook
from ..io.datasets.examples import Examples, Unread
from ..io.sources import HeldSource, Source
from ..job.job_plan import JobPlan

ShowBar = Callable[[Bar, Sequence[dict]], None]
"""Shows on a bar how much of a run its ranks have done, from what they publish."""


@dataclass(frozen=True)
class UnderWay:
    """A run or an epoch that is under way.

    Attributes
    ----------
    plan
        What is run.
    title
        Its name for a user.
    of
        What the ranks' figures are of: ``{"run": 3}`` or ``{"epoch": 0}``.
    source
        The image, if this process can read it.
    steps
        Number of steps.
    """

    plan: JobPlan
    title: str
    of: Mapping[str, int]
    source: Source | None = field(repr=False)
    steps: int = 1


def first_readable(shares: Sequence[Examples]) -> Source | None:
    """The images of the first rank that reads all of them from a file."""
    images = (each.images for each in shares)
    return next((s for s in images if not isinstance(s, (Unread, HeldSource))), None)


@contextmanager
def displayed(
    run: UnderWay, progress: bool, live: bool, show_bar: ShowBar
) -> Iterator[Callable[[list[dict]], None]]:
    """Show a run while the context is open; what it yields takes what the ranks publish.

    Parameters
    ----------
    run
        The run.
    progress
        Whether anything is shown.
    live
        Whether it is a widget, in a notebook, rather than a bar.
    show_bar
        Shows it on a bar.
    """
    if not (progress and live and _has_widgets() and len(run.plan.extent) == 2):
        with Bar(progress) as bar:
            yield lambda published: show_bar(bar, published)
        return
    from ..viewer.live_view import LiveRun  # only a notebook needs widgets

    widget = LiveRun(run.plan, run.source, run.title, run.of, run.steps)
    failed = False

    def show(published: list[dict]) -> None:
        nonlocal failed
        if failed:
            return
        try:
            widget.update(published)
        except Exception as error:  # a picture must not end the run that it shows
            failed = True
            print(f"spnb: no live picture: {error}", file=sys.stderr)

    try:
        yield show
    finally:
        widget.close()


def _has_widgets() -> bool:
    """Whether this process is a notebook's kernel."""
    shell: Any = notebook()
    return getattr(shell, "kernel", None) is not None
