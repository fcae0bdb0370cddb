"""The clock table of a plan: which micro-batch is in which stage at which tick."""

from __future__ import annotations

from ..display.cards import counted
from ..ir.clock import ClockTable
from ..ir.replicas import turns_of
from ..ir.schedule import SCHEDULES, at_once, clock, forward_only
from ..planner.plan import Plan


def clock_table(plan: Plan) -> ClockTable:
    """Passes of every stage of one replica, or of every rank where a mirrored replica is there.

    Examples
    --------
    >>> import spnb
    >>> job = spnb.Job("resnet20_v1", image_size=33, batch_size=3, parts=3)
    >>> table = clock_table(spnb.plan(job))
    >>> [len(tick) for tick in table.ticks], table.idle
    ([1, 2, 2, 1], 0.25)
    """
    replicas, pipelines = plan.replicas, plan.replicas.of(0)
    ranks = range(replicas.ranks_each)
    if not replicas.times:
        ranks = [stage.team.ranks[0] for stage in plan.stages]
    rows = []
    for rank in ranks:
        stages = [plan.stage_of(image).index for image in plan.plan_ranks_of(rank)]
        rows.append(turns_of(pipelines, stages))
    training = plan.graph.training
    order = SCHEDULES[plan.schedule] if training else forward_only
    ticks = clock(order, len(plan.stages), rows if training else [at_once(turns) for turns in rows])
    mirrored = {number for pipeline in pipelines[1:] for number in pipeline.numbers}
    way = "forward, and back (striped)"
    if not training:
        way = f"through {counted(len(plan.stages), 'stage')}"
    count = replicas.micro_batches * replicas.turns
    title = (
        f"{count} micro-batch{'es' * (count != 1)} {way}{', mirrored in italics' * bool(mirrored)}"
    )
    names = [f"{'rank' if replicas.times else 'stage'} {k}" for k in range(len(rows))]
    return ClockTable(ticks, names, mirrored, title)
