"""Progress bars, and the printed output of ranks, in a notebook or a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

from tqdm.auto import tqdm

PATIENCE = 1.0
"""Seconds after which a bar appears: work that is done sooner shows none."""


class Bar:
    """A progress bar with the time left, in a notebook or a terminal; elsewhere it shows nothing.

    Parameters
    ----------
    shown
        False for a bar that shows nothing anywhere.
    """

    def __init__(self, shown: bool = True):
        self.shown = shown and (notebook() is not None or sys.stderr.isatty())
        self.start = time.monotonic()
        self._bar: Any = None
        self._task = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: object, *_: object) -> None:
        self.close(failed=error is not None)

    def show(self, task: str, done: float, total: float, detail: str = "") -> None:
        """Show how much of a task is done; another task has a new bar.

        Parameters
        ----------
        task
            Name of the task.
        done, total
            How much of it is done, and how much there is, in any unit.
        detail
            Text after the bar.
        """
        if not self.shown or time.monotonic() - self.start < PATIENCE:
            return
        if self._bar is None or self._task != task:
            self.close()
            form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
            self._bar, self._task = tqdm(total=total, leave=False, desc=task, bar_format=form), task
        self._bar.set_postfix_str(detail, refresh=False)
        self._bar.update(done - self._bar.n)

    def close(self, failed: bool = False) -> None:
        """Remove the bar; a notebook keeps the bar of a failed task, in red."""
        if self._bar is not None:
            if not failed:
                self._bar.n = self._bar.total  # a notebook shows an incomplete bar as failed
            self._bar.close()
            self._bar = None


def show_run(bar: Bar, published: Sequence[dict], run: int, micro_batches: int) -> None:
    """Show how much of a run the ranks have done.

    Parameters
    ----------
    bar
        The bar that shows it.
    published
        The last report of each rank (`spnb.engine.progress`); it may be of an earlier run.
    run
        Number of the run.
    micro_batches
        Number of micro-batches of the run.
    """
    nothing_done = {"share": 0.0, "done": 0}
    reports = [each if each.get("run") == run else nothing_done for each in published]
    share = sum(each["share"] for each in reports) / len(reports)
    current = min(min(each["done"] for each in reports) + 1, micro_batches)
    detail = f", micro-batch {current} of {micro_batches}" if micro_batches > 1 else ""
    bar.show("step", share, 1.0, detail)


def show_epoch(bar: Bar, published: Sequence[dict], epoch: int, steps: int) -> None:
    """Show how many steps of an epoch all ranks have done.

    Parameters
    ----------
    bar
        The bar that shows it.
    published
        The last report of each rank; it may be of an earlier epoch.
    epoch
        Number of the epoch, from 0.
    steps
        Number of its steps.
    """
    done = [each["steps"] for each in published if each.get("epoch") == epoch]
    bar.show(f"epoch {epoch + 1}", min(done, default=0), steps)


def show_evaluation(bar: Bar, published: Sequence[dict], batches: int) -> None:
    """Show how many batches of an evaluation all ranks have done.

    Parameters
    ----------
    bar
        The bar that shows it.
    published
        The last report of each rank; it may be of something else.
    batches
        Number of batches.
    """
    done = [each["evaluated"] for each in published if "evaluated" in each]
    bar.show("evaluation", min(done, default=0), batches)


@contextmanager
def shown_by_module(bar: Bar, task: str, module: Any, costs: Mapping[str, float]) -> Iterator[None]:
    """Show how much of a module's forward is done, while the context is open.

    Parameters
    ----------
    bar
        The bar that shows it.
    task
        What the bar is called.
    module
        The module; it is called inside the context.
    costs
        The cost of each module in it, by path, in any unit.
    """
    from torch.compiler import is_compiling

    done, total = 0.0, sum(costs.values()) or 1.0

    def after(path: str) -> Callable[..., None]:
        def show(*_: object) -> None:
            nonlocal done
            if is_compiling():  # a branch of torch.cond may change nothing outside of it
                return
            done = min(done + costs.get(path, 0.0), total)
            bar.show(task, done, total)

        return show

    hooks = [inner.register_forward_hook(after(path)) for path, inner in module.named_modules()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def show_output(rank: int, text: str, name: str) -> None:
    """Print the text that a rank printed, with its number before each line."""
    stream = sys.stderr if name == "stderr" else sys.stdout
    for line in filter(None, text.splitlines()):
        print(f"[rank {rank}] {line}", file=stream, flush=True)


def notebook() -> Any:
    """The IPython shell that runs this process; None outside IPython."""
    if "IPython" not in sys.modules:
        return None
    from IPython import get_ipython

    return get_ipython()
