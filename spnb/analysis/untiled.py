"""The untiled counterpart of a plan: the same network on one rank."""

from __future__ import annotations

from ..ir.tiling import Tiling
from ..planner.plan import Plan


def untiled(plan: Plan) -> Plan:
    """Return the plan of the same network and micro-batches, as one stage on one rank."""
    graph = plan.captured
    return Plan(
        graph,
        tilings=[Tiling.even((1,) * (len(plan.extent) + 1))],
        blocks=[len(graph.blocks)],
        parts=len(plan.micro_batch_sizes),
        network_module=plan.network_module,
    )
