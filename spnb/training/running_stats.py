"""Running statistics of batch norms, equal to those of one rank that has all micro-batches.

PyTorch updates a statistic ``r`` with each micro-batch's figure ``s``: ``r ← (1 − m) r + m s``,
with the momentum ``m``.  After ``n`` updates the ``k``-th figure has the weight
``m (1 − m)ⁿ⁻¹⁻ᵏ``.  So each rank sums its own figures with their weights, and these sums are
added over the ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..ir.node import Node, Weight
from ..ir.rank_plan import RankPlan
from .sums import Sums


class RunningStats:
    """The running statistics that a rank has.

    Parameters
    ----------
    rank_plans
        The rank's share of the plan in each of its pipelines.

    Attributes
    ----------
    moves
        By name: the momentum, and the number of updates of the statistic in a step.
    """

    def __init__(self, rank_plans: Sequence[RankPlan]):
        self.moves: dict[str, tuple[float, int]] = {}
        for rank_plan in rank_plans:
            for node in filter(_has_running_stats, rank_plan.nodes):
                _, calls = rank_plan.turns[node.name]
                count = calls * len(rank_plan.micro_batch_sizes)
                for name in ("running_mean", "running_var"):
                    self.moves[node.args[name].name] = (node.args["momentum"], count)

    def record(
        self,
        node: Node,
        operands: Sequence[Any],
        rank_plan: RankPlan,
        number: int,
        sums: Sums,
    ) -> None:
        """Add the figures of a call to the sums, if it is a batch norm.

        Parameters
        ----------
        node
            The call.
        operands
            Its operands; those of a batch norm are the values, and the micro-batch's figures.
        rank_plan
            The share of the plan that the call is in.
        number
            Number of the micro-batch.
        sums
            The weighted figures are added to them.
        """
        if not _has_running_stats(node):
            return
        turn, calls = rank_plan.turns[node.name]
        count, mean, squares = (figure.reshape(-1) for figure in operands[1].detach().unbind(-1))
        for name, figure in (("running_mean", mean), ("running_var", squares / (count - 1))):
            found = node.args[name].name
            momentum, moves = self.moves[found]
            later = moves - 1 - (number * calls + turn)
            sums.add(found, figure * (momentum * (1 - momentum) ** later))

    def update(self, weights: Mapping[str, torch.Tensor], sums: Sums) -> None:
        """Update the statistics with a step's sums over all ranks."""
        for name, (momentum, moves) in self.moves.items():
            weights[name].mul_((1 - momentum) ** moves).add_(sums[name])


def _has_running_stats(node: Node) -> bool:
    batch_norm = node.op.startswith("spnb.normalized.batch_norm")
    return batch_norm and isinstance(node.args.get("running_mean"), Weight)
