"""The cluster of a notebook; the cell that starts it may be run many times."""

from __future__ import annotations

from typing import Any

from ..driver.cluster import Cluster
from ..job.job_plan import JobPlan

_cluster: Cluster | None = None


def start(plan: JobPlan, **options: Any) -> Cluster:
    """Start engines for a plan, or load the plan on engines that this function started before.

    Parameters
    ----------
    plan
        The plan to load; if there are too few engines, more are started.
    **options
        Options of `spnb.Cluster`, if no engines run yet.

    Returns
    -------
    Cluster
        The cluster of this process, the same at every call until `stop`.

    Raises
    ------
    ValueError
        If engines run already and options are given.
    StartError
        If the engines do not start.

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
    """Return the cluster that `start` returned last; None if it is stopped."""
    return None if _cluster is None or _cluster.stopped else _cluster


def stop() -> None:
    """Stop the engines that `start` started; a second call does nothing.

    Examples
    --------
    >>> stop()
    """
    if _cluster is not None:
        _cluster.stop()
