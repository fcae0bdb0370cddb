"""Running statistics of batch norms: what a step moves them by, whichever ranks see its images.

One micro-batch after the other would be ``r ← (1 − m) r + m s``, so of ``n`` moves the ``k``-th has
the weight ``m (1 − m)ⁿ⁻¹⁻ᵏ`` in the end.  Ranks add up what they know of that sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..ir.node import Node, Weight
from ..ir.rank_plan import RankPlan


class Averages:
    """The running statistics that a rank has.

    Parameters
    ----------
    parts
        What the rank is, in each of its pipelines.

    Attributes
    ----------
    known
        By name: the momentum, and how often a step moves them.
    """

    def __init__(self, parts: Sequence[RankPlan]):
        self.known: dict[str, tuple[float, int]] = {}
        for rank_plan in parts:
            for node in filter(_has_averages, rank_plan.nodes):
                _, calls = rank_plan.turns[node.name]
                moves = (node.args["momentum"], calls * len(rank_plan.micro_batch_sizes))
                for name in ("running_mean", "running_var"):
                    self.known[node.args[name].name] = moves

    def note(
        self,
        node: Node,
        given: Sequence[Any],
        rank_plan: RankPlan,
        number: int,
        sums: Mapping[str, torch.Tensor],
    ) -> None:
        """Add what a call moves them by, if it is a batch norm.

        Parameters
        ----------
        given
            Its operands: of a batch norm the values, and the figures of the micro-batch.
        number
            Of the micro-batch.
        sums
            By name, to be added to.
        """
        if not _has_averages(node):
            return
        turn, calls = rank_plan.turns[node.name]
        count, mean, squares = (figure.reshape(-1) for figure in given[1].detach().unbind(-1))
        for name, figure in (("running_mean", mean), ("running_var", squares / (count - 1))):
            found = node.args[name].name
            momentum, moves = self.known[found]
            later = moves - 1 - (number * calls + turn)
            sums[found].add_(figure.to(sums[found].dtype), alpha=momentum * (1 - momentum) ** later)

    def move(self, weights: Mapping[str, torch.Tensor], sums: Mapping[str, torch.Tensor]) -> None:
        """Move them by what all ranks have noted in a step."""
        for name, (momentum, moves) in self.known.items():
            weights[name].mul_((1 - momentum) ** moves).add_(sums[name])


def _has_averages(node: Node) -> bool:
    batch_norm = node.op.startswith("spnb.normalized.batch_norm")
    return batch_norm and isinstance(node.args.get("running_mean"), Weight)
