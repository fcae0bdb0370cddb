"""From a plan to all that one of its ranks needs to know."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from ..ir.exchange import HOST, Spans
from ..ir.rank_plan import RankPlan, Shared
from ..rules import has_rule, module_of_rule

if TYPE_CHECKING:
    from .plan import Plan
    from .stage import Stage


def rank_plan_of(plan: Plan, rank: int, replica: int) -> RankPlan:
    """What a rank of the pipeline that is not mirrored needs to know."""
    stage, graph = plan.stage_of(rank), plan.graph
    return RankPlan(
        rank=rank,
        num_ranks=plan.num_ranks,
        stage=stage.index,
        tile=plan.tile_of(rank),
        team=stage.team,
        extent=graph.extent(plan.entry_of(stage)),
        region=plan.tile_region(rank),
        entry_needs=_entry_needs(plan, stage),
        nodes=stage.nodes,
        weights=stage.weights,
        paths=stage.paths(graph),
        micro_batch_sizes=plan.micro_batch_sizes,
        programs={images: plan.programs(rank, images) for images in set(plan.micro_batch_sizes)},
        imports=_imports(plan, stage),
        ruled=_ruled(stage),
        dtype=graph.dtype,
        num_stages=len(plan.stages),
        outputs={value: graph.shape(value) for value in graph.outputs},
        constants=tuple(graph.made_of(stage.weights)[1]),
        shared=_shared(plan, stage),
        turns={n.name: graph.turns[n.name] for n in stage.nodes if n.name in graph.turns},
        replicas=plan.replicas,
        replica=replica,
        training=graph.training,
    )


def _entry_needs(plan: Plan, stage: Stage) -> Spans | None:
    """What tiles need of the network's input, all images of it; none where they do not read it."""
    entry = plan.entry_of(stage)
    if plan.producer[entry] != HOST:
        return None
    needs = plan.stage_needs[stage.index, plan.micro_batch_sizes[0]].need.get(entry)
    return needs and (((0, plan.graph.batch),), *needs[1:])


def _shared(plan: Plan, stage: Stage) -> tuple[Shared, ...]:
    """Weights of a stage, by the ranks that have them; in one order on all ranks."""
    found, number = [], 0
    for users, names in plan.users.items():
        if stage.index in users and plan.graph.training:
            teams = [plan.stages[index].team.ranks for index in users]
            ranks = teams[0] if len(teams) == 1 else tuple(itertools.chain(*teams))
            found.append(Shared(number, plan.replicas.everywhere(ranks), tuple(names)))
        number += len(names)
    return tuple(found)


def _imports(plan: Plan, stage: Stage) -> tuple[str, ...]:
    """Modules that define the stage's custom operators; a notebook's own has no name."""
    homes = {module_of_rule(node) for node in stage.custom}
    if stage.custom:
        homes.add(plan.network_module)
    return tuple(sorted(homes - {None, "__main__"}))


def _ruled(stage: Stage) -> tuple[str, ...]:
    """The stage's custom operators that have a rule here, and so must have it on the ranks."""
    return tuple(sorted({node.op for node in stage.custom if has_rule(node.op)}))
