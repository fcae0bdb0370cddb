"""A rank's place in one pipeline: its share of the plan there, and its messages' addresses."""

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
    """The stage of a pipeline that a rank works in, and the rank's share of it.

    Attributes
    ----------
    rank_plan
        The rank's share of the plan in this pipeline.
    rules
        The rules of the stage's nodes.
    pipeline
        The ranks of the world that the pipeline runs on, and its micro-batches.
    """

    rank_plan: RankPlan
    rules: Sequence[Rule]
    pipeline: Pipeline

    @property
    def records_statistics(self) -> bool:
        """Whether this rank records the statistics of batch norms; one rank of a stage does."""
        return self.rank_plan.rank == self.rank_plan.team.ranks[-1]

    def view(self, transport: Transport) -> RankView:
        """The messages of this pipeline, on a carrier that serves all ranks."""
        shift = MIRROR_SHIFT if self.pipeline.mirrored else 0
        return RankView(transport, self.pipeline.ranks, shift)


def pipeline_stages_of(rank_plan: RankPlan) -> list[PipelineStage]:
    """The stages that a rank works in: one, or two where the plan has a mirror."""
    pipelines = rank_plan.replicas.of(rank_plan.replica)
    return [
        PipelineStage(each, [rule_of(node) for node in each.nodes], pipeline)
        for each, pipeline in zip(rank_plan.with_mirror, pipelines, strict=True)
    ]


def turns_in(stages: Sequence[PipelineStage]) -> list[Turn]:
    """The turns of a rank in all of its pipelines, in order."""
    return turns_of([s.pipeline for s in stages], [s.rank_plan.stage for s in stages])
