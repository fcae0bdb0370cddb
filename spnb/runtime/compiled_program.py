"""A rank's program, compiled to a list of actions that only need the values of tensors.

Every region, slice and argument follows from the plan, so they are computed once, when the plan is
loaded.  A step of a run then takes little more than the operator's own time.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property

from ..ir.program import Compute, Free, Keep, Program, Receive, Send, Step, held_by_host
from ..ir.rank_plan import RankPlan
from ..ir.region import Region
from ..rules import Rule
from .arena import Arena
from .buffer_plan import Place
from .compute_actions import ComputeActions
from .exchange_actions import ExchangeActions
from .likeness import likeness
from .local_values import LocalValues
from .prepared_weights import PreparedWeights
from .result_places import ResultPlaces
from .state import Action


class CompiledProgram:
    """A program as a list of actions.

    Parameters
    ----------
    program
        The rank's steps.
    rank_plan
        The rank's share of the plan.
    rules, weights
        The rule and the weights of each node of the rank's stage.
    held
        Regions of values that earlier programs of the rank left.
    places, arena
        The place of each result that has one, and the memory of these places.  Without an arena,
        PyTorch allocates every result.

    Attributes
    ----------
    program
        As the argument.
    actions
        One for each step, in order.
    left
        Regions of values that later programs of the rank read.
    """

    def __init__(
        self,
        program: Program,
        rank_plan: RankPlan,
        rules: Sequence[Rule],
        weights: PreparedWeights,
        held: Mapping[str, Region] | None = None,
        places: Mapping[str, Place] | None = None,
        arena: Arena | None = None,
    ):
        self.program, self._rules = program, rules
        values = LocalValues(held or {}, rank_plan.paths)
        result_places = ResultPlaces(places or {}, arena, held_by_host(program, rank_plan.nodes))
        self._compute = ComputeActions(rank_plan, rules, weights, values, result_places)
        self._exchange = ExchangeActions(rank_plan, values, result_places)
        self.left: dict[str, Region] = {}
        self.actions = [self._action(step) for step in program.steps]

    @cached_property
    def likeness(self) -> Hashable:
        """What it has in common with programs of the same answers; None if there are none."""
        return likeness(self.program, self._rules)

    def _action(self, step: Step) -> Action:
        match step:
            case Compute():
                return self._compute.action(step)
            case Send():
                return self._exchange.send(step)
            case Receive():
                return self._exchange.receive(step)
            case Free():
                return self._exchange.free(step)
            case Keep():
                if step.last:
                    self.left[step.value] = step.whole
                return self._exchange.keep(step)
