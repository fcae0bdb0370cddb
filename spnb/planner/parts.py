"""From a plan to all that one of its ranks needs to know."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from ..ir.exchange import HOST, Spans
from ..ir.rank_plan import Part, Shared
from ..rules import has_rule, home_of

if TYPE_CHECKING:
    from .plan import Plan
    from .stage import Stage


def part_of(plan: Plan, rank: int, replica: int) -> Part:
    """What a rank of the pipeline that is not mirrored needs to know."""
    stage, graph = plan.stage_of(rank), plan.graph
    return Part(
        rank=rank,
        num_ranks=plan.num_ranks,
        stage=stage.index,
        tile=plan.tile_of(rank),
        home=stage.team,
        extent=graph.extent(plan.entry_of(stage)),
        region=plan.tile_region(rank),
        entry_needs=_entry_needs(plan, stage),
        nodes=stage.nodes,
        weights=stage.weights,
        paths=stage.paths(graph),
        batches=plan.batches,
        programs={images: plan.programs(rank, images) for images in set(plan.batches)},
        imports=_imports(plan, stage),
        ruled=_ruled(stage),
        dtype=graph.dtype,
        num_stages=len(plan.stages),
        outputs={value: graph.shape(value) for value in graph.outputs},
        constants=tuple(graph.made_of(stage.weights)[1]),
        shared=_shared(plan, stage),
        turns={n.name: graph.turns[n.name] for n in stage.nodes if n.name in graph.turns},
        copies=plan.copies,
        replica=replica,
        training=graph.training,
    )


def _entry_needs(plan: Plan, stage: Stage) -> Spans | None:
    """What tiles need of the network's input, all images of it; none where they do not read it."""
    entry = plan.entry_of(stage)
    if plan.producer[entry] != HOST:
        return None
    needs = plan.layouts[stage.index, plan.batches[0]].need.get(entry)
    return needs and (((0, plan.graph.batch),), *needs[1:])


def _shared(plan: Plan, stage: Stage) -> tuple[Shared, ...]:
    """Weights of a stage, by the ranks that have them; in one order on all ranks."""
    found, number = [], 0
    for users, names in plan.users.items():
        if stage.index in users and plan.graph.training:
            teams = [plan.stages[index].team.ranks for index in users]
            ranks = teams[0] if len(teams) == 1 else tuple(itertools.chain(*teams))
            found.append(Shared(number, plan.copies.everywhere(ranks), tuple(names)))
        number += len(names)
    return tuple(found)


def _imports(plan: Plan, stage: Stage) -> tuple[str, ...]:
    """Modules that define the stage's custom operators; a notebook's own has no name."""
    homes = {home_of(node) for node in stage.custom}
    if stage.custom:
        homes.add(plan.home)
    return tuple(sorted(homes - {None, "__main__"}))


def _ruled(stage: Stage) -> tuple[str, ...]:
    """The stage's custom operators that have a rule here, and so must have it on the ranks."""
    return tuple(sorted({node.op for node in stage.custom if has_rule(node.op)}))
