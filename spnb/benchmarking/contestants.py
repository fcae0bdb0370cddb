"""The plans of a benchmark: the job's plan, the same without messages, one for a single rank."""

from __future__ import annotations

from dataclasses import replace

from ..ir.program import without_exchange
from ..ir.rank_plan import RankPlan
from ..job.job import Job
from ..job.job_plan import JobPlan

LIMIT = "no exchange"
"""Name of the plan without messages between ranks."""

SOLO = "one rank, one thread"
"""Name of the plan with the whole image on one rank with one thread."""


def contestants(plan: JobPlan, name: str, limit: str) -> dict[str, JobPlan]:
    """Return a plan, and the same plan without messages, by their names."""
    return {name: plan, limit: without_messages(plan)}


def without_messages(plan: JobPlan) -> JobPlan:
    """Return a plan in which ranks compute the same, but send each other no messages.

    Its output is wrong.  Its time is a limit: no faster exchange could make the plan faster.
    """
    return plan.derived(_without_exchanges)


def on_one_thread(job: Job, training: bool = False) -> JobPlan:
    """Return the plan of a job's whole network and image on one rank with one thread.

    Parameters
    ----------
    job
        The job.
    training
        Whether the network is trained.
    """
    return JobPlan(on_one_rank(job), training).derived(_with_one_thread)


def on_one_rank(job: Job) -> Job:
    """Return the job of the whole network and image on one rank, with the same micro-batches."""
    return job.replace(
        split_size=1,
        spatial_size=1,
        num_spatial_parts=1,
        slice_method="square",
        balance=None,
        local_DP=1,
        parts=job.num_micro_batches,
        replicas=1,
        gems=False,
        times=1,
        enable_master_comm_opt=False,
    )


def _without_exchanges(rank_plan: RankPlan) -> RankPlan:
    programs = {
        images: tuple(map(without_exchange, each)) for images, each in rank_plan.programs.items()
    }
    mirror = None if rank_plan.mirror is None else _without_exchanges(rank_plan.mirror)
    return replace(rank_plan, programs=programs, mirror=mirror)


def _with_one_thread(rank_plan: RankPlan) -> RankPlan:
    return replace(rank_plan, threads=1)
