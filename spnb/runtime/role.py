"""What a rank is in a copy of the plan: its part there, and whom it exchanges messages with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..ir.rank_plan import RankPlan
from ..ir.replicas import Pipeline, turns_of
from ..ir.schedule import Turn
from ..ir.tags import MIRROR_SHIFT
from ..rules import Rule, rule_of
from ..transport import Transport
from ..transport.rank_view import RankView


@dataclass(frozen=True)
class PipelineStage:
    """What a rank is in one of its pipelines.

    Attributes
    ----------
    rank_plan
        Its share of the plan there.
    rules
        Of the part's nodes.
    pipeline
        Which ranks of the world it works with, and the micro-batches that they take.
    """

    rank_plan: RankPlan
    rules: Sequence[Rule]
    pipeline: Pipeline

    @property
    def tells(self) -> bool:
        """Whether it is the one rank of its stage that keeps the statistics of batch norms."""
        return self.rank_plan.rank == self.rank_plan.team.ranks[-1]

    def over(self, transport: Transport) -> RankView:
        """Its pipeline's messages, on a carrier."""
        shift = MIRROR_SHIFT if self.pipeline.mirrored else 0
        return RankView(transport, self.pipeline.ranks, shift)


def pipeline_stages_of(rank_plan: RankPlan) -> list[PipelineStage]:
    """What a rank is in each of its pipelines."""
    pipelines = rank_plan.replicas.of(rank_plan.replica)
    return [
        PipelineStage(each, [rule_of(node) for node in each.nodes], pipeline)
        for each, pipeline in zip(rank_plan.with_mirror, pipelines, strict=True)
    ]


def turns_in(roles: Sequence[PipelineStage]) -> list[Turn]:
    """Turns of a rank in order, in all of its pipelines."""
    return turns_of([role.pipeline for role in roles], [role.rank_plan.stage for role in roles])
