"""Compares the memory that ranks are foreseen to take with that of their hosts.

Without it the system would kill a rank, in the middle of a run.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..analysis.weight_memory import ENGINE
from ..display.cards import size_text
from ..errors import CaptureError, OptionError, PlanError
from ..ir.option_words import option
from ..job.job_plan import JobPlan
from ..runtime.host_memory import HostMemory


def require_memory(plan: JobPlan, memory: Sequence[HostMemory]) -> None:
    """Refuse a plan whose ranks need more memory than a host has; warn if too little is free.

    Parameters
    ----------
    plan
        The plan, before it is loaded.
    memory
        The memory that each rank sees, in rank order.

    Raises
    ------
    PlanError
        With both numbers and what would fit, unless the job says ``force``.
    """
    if plan.job.device_kind != "cpu":
        return
    ranks = memory[: plan.num_ranks]
    for host in dict.fromkeys(each.host for each in ranks):
        here = [rank for rank, each in enumerate(ranks) if each.host == host]
        total = min(ranks[rank].total for rank in here)
        # What ranks that run already hold is theirs, or is freed by the next load.
        held = sum(ranks[rank].held for rank in here)
        free = min(total, min(ranks[rank].free for rank in here) + held)
        needed = foreseen(plan, here)
        if needed <= free:
            continue
        text = (
            f"the {len(here)} ranks on {host} are foreseen to take {size_text(needed)} of memory,"
            f" and {size_text(free)} of {size_text(total)} are free: "
        )
        if needed > total and not plan.job.force:
            raise PlanError(
                f"{text}{_way_out(plan, here, total)}; or try it with {option('force', True)}"
            )
        print(f"spnb: {text}{_way_out(plan, here, free)}", file=sys.stderr, flush=True)


def foreseen(plan: JobPlan, ranks: Sequence[int]) -> int:
    """Return the bytes that some ranks are expected to take together, with their processes."""
    return sum(ENGINE + plan.memory_bytes[plan.stage_of(rank).index] for rank in ranks)


def _way_out(plan: JobPlan, ranks: Sequence[int], free: int) -> str:
    """Say what would fit, if something is found; it is planned to be sure."""
    share = len(ranks) / plan.num_ranks
    for changes, other in _smaller(plan):
        needed = int(foreseen(other, range(other.num_ranks)) * share)
        if needed <= free:
            words = [option(name, value) for name, value in changes.items()]
            return f"with {' and '.join(words)} they take {size_text(needed)}"
    return (
        f"use more hosts, more {option('patches')} or {option('parts')}, or a smaller"
        f" {option('batch_size')}"
    )


def _smaller(plan: JobPlan) -> Iterator[tuple[Mapping[str, Any], JobPlan]]:
    """Plans of the same network and image that may take less memory, and what they change."""
    job, changes = plan.job, dict[str, Any]()
    tried: dict[str, list[Any]] = {
        "recompute": [True] if plan.training else [],
        "parts": [job.batch_size],
        "patches": [4, 16],
    }
    for name, values in tried.items():
        for value in values:
            if value > getattr(job, name):
                with contextlib.suppress(PlanError, OptionError, CaptureError):
                    changed = job.replace(**{**changes, name: value})
                    other = JobPlan(changed, plan.training, plan.loss)
                    changes[name] = value
                    yield changes, other
