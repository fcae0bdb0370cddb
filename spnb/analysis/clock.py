"""The clock table of a plan: which micro-batch is in which stage at which tick."""

from __future__ import annotations

from ..display.cards import counted
from ..ir.clock import ClockTable
from ..ir.replicas import turns_of
from ..ir.schedule import SCHEDULES, at_once, clock, forward_only
from ..planner.plan import Plan


def clock_table(plan: Plan) -> ClockTable:
    """Return the passes of every stage; of every rank if the plan has mirrored replicas.

    Only one replica is in the table; the others do the same.

    Examples
    --------
    >>> import spnb
    >>> job = spnb.Job("resnet20_v1", image_size=33, batch_size=3, parts=3)
    >>> table = clock_table(spnb.plan(job))
    >>> [len(tick) for tick in table.ticks], table.idle
    ([1, 2, 2, 1], 0.25)
    """
    replicas, pipelines = plan.replicas, plan.replicas.of(0)
    if replicas.times:
        ranks, row_name = list(range(replicas.ranks_each)), "rank"
    else:
        ranks, row_name = [stage.team.ranks[0] for stage in plan.stages], "stage"
    rows = []
    for rank in ranks:
        stages = [plan.stage_of(plan_rank).index for plan_rank in plan.plan_ranks_of(rank)]
        rows.append(turns_of(pipelines, stages))
    if plan.graph.training:
        ticks = clock(SCHEDULES[plan.schedule], len(plan.stages), rows)
    else:
        ticks = clock(forward_only, len(plan.stages), [at_once(turns) for turns in rows])
    mirrored = {number for pipeline in pipelines[1:] for number in pipeline.numbers}
    names = [f"{row_name} {k}" for k in range(len(rows))]
    return ClockTable(ticks, names, mirrored, _title(plan, bool(mirrored)))


def _title(plan: Plan, mirrored: bool) -> str:
    count = plan.replicas.micro_batches * plan.replicas.turns
    batches = "micro-batch" if count == 1 else "micro-batches"
    way = f"through {counted(len(plan.stages), 'stage')}"
    if plan.graph.training:
        way = "forward, and back (striped)"
    return f"{count} {batches} {way}{', mirrored in italics' if mirrored else ''}"
