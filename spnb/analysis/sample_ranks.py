"""Ranks whose figures stand for those of a whole stage."""

from __future__ import annotations

from ..planner.plan import Plan


def sample_ranks(plan: Plan, stage: int) -> list[int]:
    """Return typical ranks of a stage: the first, the middle and the last along each axis."""
    team = plan.stages[stage].team
    corners: list[tuple[int, ...]] = [()]
    for n in team.tiling.grid:
        corners = [(*c, k) for c in corners for k in sorted({0, n // 2, n - 1})]
    return [team.rank_at(corner) for corner in corners]
