"""The share of a plan that one rank is sent; it has nothing of other ranks."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from ..ir.exchange import HOST, Spans
from ..ir.program import Program
from ..ir.rank_plan import RankPlan, Shared
from ..ir.replicas import Replicas
from ..rules import has_rule, module_of_rule
from .needs import StageNeeds
from .stage import Stage
from .staged_graph import StagedGraph


def rank_plan_of(
    *,
    network: StagedGraph,
    stage: Stage,
    rank: int,
    replicas: Replicas,
    replica: int,
    micro_batch_sizes: Sequence[int],
    needs: StageNeeds,
    programs: Mapping[int, tuple[Program, ...]],
    network_module: str | None,
) -> RankPlan:
    """Return the share of a rank in the pipeline that is not mirrored.

    Parameters
    ----------
    network
        The stages of the plan.
    stage, rank
        The rank of the plan, and its stage.
    replicas, replica
        The copies of the plan, and the number of the one that this rank is in.
    micro_batch_sizes
        Images in each micro-batch.
    needs
        The needs of the stage's tiles for the first micro-batch.
    programs
        For each size of a micro-batch, the programs that the rank runs.
    network_module
        The module that defines the network, if it has one.
    """
    graph, entry = network.graph, network.entry_of(stage)
    extent, tile = graph.extent(entry), stage.team.ranks.index(rank)
    return RankPlan(
        rank=rank,
        num_ranks=replicas.num_ranks,
        stage=stage.index,
        tile=tile,
        team=stage.team,
        extent=extent,
        region=stage.team.tiling.region(extent, tile),
        entry_needs=_entry_needs(network, entry, needs),
        nodes=stage.nodes,
        weights=stage.weights,
        paths=stage.paths(graph),
        micro_batch_sizes=tuple(micro_batch_sizes),
        programs=programs,
        imports=_imports(stage, network_module),
        ruled=_ruled(stage),
        dtype=graph.dtype,
        floating_types=graph.floating_types,
        default_dtype=graph.default_dtype,
        num_stages=len(network.stages),
        outputs={value: graph.shape(value) for value in graph.outputs},
        targets=tuple(graph.target_types),
        constants=tuple(graph.made_of(stage.weights)[1]),
        shared=_shared(network, stage, replicas),
        turns={n.name: graph.turns[n.name] for n in stage.nodes if n.name in graph.turns},
        replicas=replicas,
        replica=replica,
        training=graph.training,
    )


def _entry_needs(network: StagedGraph, entry: str, needs: StageNeeds) -> Spans | None:
    """Spans of the network's input that tiles need, for the whole batch; None if they read none."""
    if network.producer[entry] != HOST or entry not in needs.need:
        return None
    return (((0, network.graph.batch),), *needs.need[entry][1:])


def _shared(network: StagedGraph, stage: Stage, replicas: Replicas) -> tuple[Shared, ...]:
    """In training, weights of a stage by the ranks that have them, with the same numbers on all."""
    found, number = [], 0
    for users, names in network.users.items():
        if stage.index in users and network.graph.training:
            teams = [network.stages[index].team.ranks for index in users]
            ranks = teams[0] if len(teams) == 1 else tuple(itertools.chain(*teams))
            found.append(Shared(number, replicas.everywhere(ranks), tuple(names)))
        number += len(names)
    return tuple(found)


def _imports(stage: Stage, network_module: str | None) -> tuple[str, ...]:
    """Modules that define the stage's custom operators; those of a notebook have no module."""
    modules = {module_of_rule(node) for node in stage.custom}
    if stage.custom:
        modules.add(network_module)
    return tuple(sorted(name for name in modules if name not in (None, "__main__")))


def _ruled(stage: Stage) -> tuple[str, ...]:
    """The stage's custom operators that have a rule here, and so must have it on the ranks."""
    return tuple(sorted({node.op for node in stage.custom if has_rule(node.op)}))
