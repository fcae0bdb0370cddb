"""What a rank is in a copy of the plan: its part there, and whom it exchanges messages with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..ir.rank_plan import Part
from ..ir.replicas import Pipeline, turns_of
from ..ir.schedule import Turn
from ..rules import Rule, rule_of
from ..transport import Transport
from ..transport.rank_view import Lane

MIRRORED = 1 << 13
"""Added to the tags of a mirrored pipeline's messages."""


@dataclass(frozen=True)
class Role:
    """What a rank is in one of its pipelines.

    Attributes
    ----------
    part
        Its share of the plan there.
    rules
        Of the part's nodes.
    pipeline
        Which ranks of the world it works with, and the micro-batches that they take.
    """

    part: Part
    rules: Sequence[Rule]
    pipeline: Pipeline

    @property
    def tells(self) -> bool:
        """Whether it is the one rank of its stage that keeps the statistics of batch norms."""
        return self.part.rank == self.part.home.ranks[-1]

    def over(self, transport: Transport) -> Lane:
        """Its pipeline's messages, on a carrier."""
        return Lane(transport, self.pipeline.ranks, MIRRORED * self.pipeline.mirrored)


def roles_of(part: Part) -> list[Role]:
    """What a rank is in each of its pipelines."""
    pipelines = part.copies.of(part.replica)
    return [
        Role(each, [rule_of(node) for node in each.nodes], pipeline)
        for each, pipeline in zip(part.images, pipelines, strict=True)
    ]


def turns_in(roles: Sequence[Role]) -> list[Turn]:
    """Turns of a rank in order, in all of its pipelines."""
    return turns_of([role.pipeline for role in roles], [role.part.stage for role in roles])
