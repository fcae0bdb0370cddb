"""The cluster of a notebook; the cell that starts it may be run many times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, overload

from torch import nn

from ..driver.cluster import Cluster
from ..driver.launch.engines_command import shown_command
from ..driver.launch.placement import OF_PLACEMENT, Placement
from ..driver.result import Result
from ..io.sources import NOT_GIVEN
from ..job import job_plan
from ..job.job import Job
from ..job.job_plan import JobPlan
from ..job.reading import Nodata, Preprocessing, Reading
from ..job.skipping import Skip
from .job_of_line import job_of_images

OF_CLUSTERS = ("client", "timeout", "deadline", "progress", "live")
"""Options of `start` that are those of a cluster, besides those of its placement; all others are
the job's."""

_cluster: Cluster | None = None


class Commands(str):
    """Commands of a shell; a notebook shows them as text."""

    def __repr__(self) -> str:
        return str(self)


@overload
def start(
    plan: JobPlan | Job | str | nn.Module, *, dry_run: Literal[False] = False, **options: Any
) -> Cluster: ...
@overload
def start(
    plan: JobPlan | Job | str | nn.Module, *, dry_run: bool, **options: Any
) -> Cluster | Commands: ...
def start(
    plan: JobPlan | Job | str | nn.Module, *, dry_run: bool = False, **options: Any
) -> Cluster | Commands:
    """Start engines for a plan, or load the plan on engines that this function started before.

    Parameters
    ----------
    plan
        The plan to load; if there are too few engines, more are started.  It may be a job, or a
        network as `spnb.Job` takes it, which are planned first.
    dry_run
        Whether to show the command, or the batch job, that would start the engines, and start none.
    **options
        If no engines run yet, options of `spnb.Cluster`, and where engines are started:
        ``launcher="slurm"`` with ``nodes``, ``partition`` and ``time``; ``launcher="ssh"`` or
        ``"mpiexec"`` with ``hosts=["a", "b:2"]`` or ``hostfile``.  And options of the job, if it is
        not planned yet.

    Returns
    -------
    Cluster
        The cluster of this process, the same at every call until `stop`; in a dry run, what would
        start its engines.

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
        cluster = spnb.start(plan, launcher="slurm", nodes=4, time="30:00")
    """
    global _cluster
    own = (*OF_CLUSTERS, *OF_PLACEMENT)
    of_job = {name: value for name, value in options.items() if name not in own}
    if not isinstance(plan, JobPlan):
        plan = job_plan.plan(plan, **of_job)
    elif of_job:
        raise TypeError(f"{', '.join(of_job)}: the plan is made; give a job, or a network")
    where = {name: value for name, value in options.items() if name in OF_PLACEMENT}
    options = {name: value for name, value in options.items() if name in OF_CLUSTERS}
    if dry_run:
        return Commands(shown_command(Placement.of(where), plan.num_ranks, "spnb"))
    if where:
        options["placement"] = Placement.of(where)
    if _cluster is None or _cluster.stopped:
        _cluster = Cluster(plan, **options)
    elif options:
        raise ValueError(
            f"engines run already, so {', '.join(options)} would have no effect: spnb.stop() first"
        )
    else:
        _cluster.load(plan)
    return _cluster


def run(
    model: Job | str | nn.Module,
    image: Any = NOT_GIVEN,
    preprocess: Preprocessing | None = None,
    nodata: Nodata = "file",
    skip: Skip = None,
    **options: Any,
) -> Result:
    """Run a network on an image in tiles: plan it, start engines or use those that run, and infer.

    Parameters
    ----------
    model
        A network as `spnb.Job` takes it, or a job.
    image
        As of `spnb.Cluster.infer`; the job has its size and its number of images, unless options
        say others.  By default a synthetic image.
    preprocess
        As of `spnb.Cluster.infer`: ``"imagenet"``, a mean and a standard deviation, or a function.
    nodata
        As of `spnb.Cluster.infer`: the number that is read as NaN.
    skip
        As of `spnb.Cluster.infer`: what is background, which is not computed again and again.
    **options
        Options of the job, as ``tiles=4``.

    Returns
    -------
    spnb.driver.result.Result
        The output, timings, pictures, and a check.  The engines stay, for the next run, until
        `stop`; the same network in the same tiles is not planned or loaded again.

    Raises
    ------
    OptionError, PlanError, CaptureError, ValueError
        As of `spnb.Job`, `spnb.plan` and `spnb.Cluster.infer`.
    StartError, RunError
        If engines do not start, or a rank fails.

    Examples
    --------
    ::

        result = spnb.run(net, "retina", tiles=4, stages=1)
        result.check()
    """
    job = job_of_images(model, options, _inputs(image))
    cluster = running()
    if cluster is not None and cluster.plan.is_of(job):
        return cluster.infer(image, preprocess=preprocess, nodata=nodata, skip=skip)
    plan = job_plan.plan(job)
    # A wrong image starts nothing.
    opened = plan.open_for_run(image, Reading(preprocess, nodata, skip))
    return start(plan).infer(opened, nodata=None)


def _inputs(image: Any) -> Sequence[Any]:
    """What is given to the inputs of a network, the first one first."""
    if image is NOT_GIVEN or image is None:
        return []
    if isinstance(image, Mapping):
        return list(image.values())
    return image if isinstance(image, (list, tuple)) else [image]


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
