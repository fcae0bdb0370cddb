"""What a cluster calls on its engines: plain functions over this process's `spnb.here`.

The caller imports this module too, so MPI is imported where it is used, on the engines: a
notebook's own process is no MPI rank.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..io.examples import Examples
from ..io.sources import Source
from ..io.stage_weights import read_weights
from ..io.writers import Store
from ..ir.rank_plan import RankPlan
from ..runtime.process_memory import give_back, keep_blocks
from ..runtime.state import Piece
from ..training.epoch import EpochReport
from .here import here
from .rank import share_cores
from .report import Report

TELL_EACH = 0.2  # seconds between two words on how far a run is

_transport: Any = None


def prepare(token: Path, deadline: float, path: Sequence[str]) -> bool:
    """Get ready, together with all engines; whether this one sees the caller's files."""
    from IPython import get_ipython
    from mpi4py import MPI

    from ..transport.mpi import MPITransport
    from .cells import watch_cells

    global _transport
    sys.path += [folder for folder in path if folder not in sys.path]  # to import what it can
    keep_blocks()
    if _transport is None:
        _transport = MPITransport(MPI.COMM_WORLD, deadline=deadline)
        watch_cells(get_ipython(), _transport)
    return token.exists()


def load(
    rank_plan: RankPlan | None, weights: Path | Mapping[str, torch.Tensor] | None, ranks_here: int
) -> None:
    """Take a part of a plan, or none; as one of so many ranks of this host."""
    here.unload()
    give_back()
    if rank_plan is None:
        return
    _transport.num_ranks = rank_plan.num_ranks
    share_cores(rank_plan, ranks_here)
    tensors = read_weights(weights) if isinstance(weights, Path) else weights
    here.load(rank_plan, tensors, _transport, _transport.local_rank)
    _publish({"loaded": 1})


def infer(sources: Mapping[str, Source], run: int, released: Sequence[int]) -> Report:
    """Run; the outputs of runs that nobody asks for any more are dropped."""
    for old in released:
        here.outputs.pop(old, None)
    publish = _seldom()

    def tell(done: int, share: float) -> None:
        publish({"run": run, "done": done, "share": share}, last=share == 1.0)

    return here.infer(sources, run, tell)


def each(name: str, args: Sequence[Any]) -> Any:
    """Call a method of this rank."""
    return getattr(here, name)(*args)


def epoch(examples: Examples, epoch: int) -> EpochReport:
    """Train on all examples once."""
    publish = _seldom()
    return here.epoch(
        examples, epoch, lambda step, loss: publish({"epoch": epoch, "steps": step + 1})
    )


def _seldom() -> Callable[..., None]:
    """What publishes now and then, however often it is called, and in any case the last word."""
    before = -TELL_EACH

    def publish(data: dict[str, float], last: bool = False) -> None:
        nonlocal before
        if last or time.monotonic() - before > TELL_EACH:
            before = time.monotonic()
            _publish(data)

    return publish


def _publish(data: dict[str, float]) -> None:
    """Let the caller see how far this rank is; what was said before is forgotten."""
    from ipyparallel.datapub import publish_data

    publish_data(data)


def fetch(run: int) -> list[Piece]:
    """The pieces of the output that this rank kept."""
    return here.outputs_of(run)


def save(run: int, value: str | None, store: Store) -> None:
    """Write what this rank has of an output, if it has any."""
    if value is not None:
        here.save(run, value, store)


def reset(backend: str) -> None:
    """Leave behind every message that is still on its way; from now on this carries. Collective."""
    _transport.backend = backend
    _transport.reset()
