"""The one cluster of a notebook: a cell that starts it may be run again and again."""

from __future__ import annotations

from typing import Any

from ..driver.cluster import Cluster
from ..job.job_plan import JobPlan

_cluster: Cluster | None = None


def start(plan: JobPlan, **options: Any) -> Cluster:
    """Start engines for a plan, or load it on those that this function started before.

    Parameters
    ----------
    plan
        What the engines shall run; where they are too few, more are started.
    options
        Of `spnb.Cluster`, for engines that are started now.

    Examples
    --------
    ::

        cluster = spnb.start(plan)      # may be run again: the engines stay
        cluster.infer("retina").check()
        spnb.stop()
    """
    global _cluster
    if _cluster is None or _cluster.stopped:
        _cluster = Cluster(plan, **options)
    elif options:
        raise ValueError(
            f"engines run already, so {', '.join(options)} would have no effect: spnb.stop() first"
        )
    else:
        _cluster.load(plan)
    return _cluster


def running() -> Cluster | None:
    """The cluster that `start` gave last, unless it is stopped."""
    return None if _cluster is None or _cluster.stopped else _cluster


def stop() -> None:
    """Stop the engines that `start` started; safe to call again."""
    if _cluster is not None:
        _cluster.stop()
