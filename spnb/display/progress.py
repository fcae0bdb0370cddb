"""Bars for what takes its time, and the output of ranks, where somebody looks."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

from tqdm.auto import tqdm

PATIENCE = 1.0
"""Seconds that something takes before a bar tells of it: what is quick needs none."""


class Bar:
    """A progress bar in a notebook or a terminal, with the time left; none where nobody looks."""

    def __init__(self, shown: bool = True):
        self.shown = shown and (notebook() is not None or sys.stderr.isatty())
        self.start = time.monotonic()
        self._bar: Any = None
        self._what = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: object, *_: object) -> None:
        self.close(failed=error is not None)

    def show(self, what: str, done: float, total: float, detail: str = "") -> None:
        """Say how much of something is done; a new bar where it is something else."""
        if not self.shown or time.monotonic() - self.start < PATIENCE:
            return
        if self._bar is None or self._what != what:
            self.close()
            form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
            self._bar, self._what = tqdm(total=total, leave=False, desc=what, bar_format=form), what
        self._bar.set_postfix_str(detail, refresh=False)
        self._bar.update(done - self._bar.n)

    def close(self, failed: bool = False) -> None:
        """Take the bar away; where it failed, a notebook keeps it in red."""
        if self._bar is not None:
            if not failed:
                self._bar.n = self._bar.total  # else a notebook takes it for a failure
            self._bar.close()
            self._bar = None


def show_run(bar: Bar, published: Sequence[dict], run: int, parts: int) -> None:
    """Show how far ranks are in a run, from what each published last."""
    told = [each if each.get("run") == run else {"share": 0.0, "done": 0} for each in published]
    share = sum(each["share"] for each in told) / len(told)
    detail = f", micro-batch {min(min(each['done'] for each in told) + 1, parts)} of {parts}"
    bar.show("step", share, 1.0, detail if parts > 1 else "")


@contextmanager
def shown_by_module(bar: Bar, what: str, module: Any, costs: Mapping[str, float]) -> Iterator[None]:
    """Show how far a module's forward is, from the cost of each module in it, by path."""
    done, total = 0.0, sum(costs.values()) or 1.0

    def after(path: str) -> Callable[..., None]:
        def show(*_: object) -> None:
            nonlocal done
            done = min(done + costs.get(path, 0.0), total)
            bar.show(what, done, total)

        return show

    hooks = [inner.register_forward_hook(after(path)) for path, inner in module.named_modules()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def show_output(rank: int, text: str, name: str) -> None:
    """Print what a rank printed, each line with its rank."""
    stream = sys.stderr if name == "stderr" else sys.stdout
    for line in text.splitlines():
        print(f"[rank {rank}] {line}", file=stream, flush=True)


def notebook() -> Any:
    """The IPython shell that we are in, if any."""
    if "IPython" not in sys.modules:
        return None
    from IPython import get_ipython

    return get_ipython()
