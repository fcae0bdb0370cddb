"""Custom operators and their rules in the process of a rank."""

from __future__ import annotations

import importlib

from ..ir.rank_plan import RankPlan
from ..rules import has_rule


def import_operators(rank_plan: RankPlan) -> None:
    """Import the modules that define a plan's custom operators, and require a rule for each.

    Parameters
    ----------
    rank_plan
        The rank's share of the plan.

    Raises
    ------
    RuntimeError
        If there is no rule for an operator in this process.
    """
    for module in (module for each in rank_plan.with_mirror for module in each.imports):
        importlib.import_module(module)
    for op in (op for each in rank_plan.with_mirror for op in each.ruled):
        if not has_rule(op):
            raise RuntimeError(
                f"rank {rank_plan.rank} has no rule for the operator {op.rsplit('.', 1)[0]}:"
                " define operator and rule in a module, or in a cell that begins with"
                " %%px --local"
            )
