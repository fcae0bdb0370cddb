"""A program of a rank in training: what its tapes, one for each micro-batch and step, share."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch

from ...ir.program import Compute, Free, Program, Receive, Send
from ...ir.rank_plan import RankPlan
from ...ir.region import Region
from ...rules import Rule
from ...runtime.pipeline_stage import PipelineStage
from .taped_call import TapedCall, Weights
from .taped_exchange import TapedReceive, TapedSend

TapedStep = TapedCall | TapedSend | TapedReceive | Free


class TapedProgram:
    """A program, with what its tapes share.

    Parameters
    ----------
    rank_plan, rules
        The rank's share of the plan, and the rules of its nodes.
    program
        The program.
    lasting
        Weights by name that are the same tensors in every step.
    """

    def __init__(
        self,
        rank_plan: RankPlan,
        rules: Sequence[Rule],
        program: Program,
        lasting: Weights | None = None,
    ):
        self.rank_plan, self.rules, self.program = rank_plan, rules, program
        self.lasting = lasting or {}

    @cached_property
    def steps(self) -> Sequence[TapedStep]:
        """The steps of the program."""
        return [self._taped(number) for number in range(len(self.program.steps))]

    @cached_property
    def outputs(self) -> int:
        """The number of regions of the network's outputs that it computes."""
        return sum(len(step.to_host) for step in self.steps if isinstance(step, TapedSend))

    def _taped(self, number: int) -> TapedStep:
        step, plan = self.program.steps[number], self.rank_plan
        if isinstance(step, Compute):
            return TapedCall(step, plan.nodes[step.node], self.rules[step.node], self.lasting)
        if isinstance(step, Free):
            return step
        name = plan.paths.get(step.value, step.value)
        if isinstance(step, Send):
            return TapedSend(step, self._dtypes[step.value], name)
        assert isinstance(step, Receive), "tapes keep no values of patches"
        return TapedReceive(step, self._with_room(number, step), name)

    @cached_property
    def _dtypes(self) -> dict[str, torch.dtype]:
        received = {s.value: s.dtype for s in self.program.steps if isinstance(s, Receive)}
        return received | {node.name: node.dtype for node in self.rank_plan.nodes}

    def _with_room(self, number: int, step: Receive) -> Region:
        """The region of a value that arrives, with room for the padding that calls add to it."""
        whole = step.region
        for later in self.program.steps[number + 1 :]:
            if isinstance(later, Free) and step.value in later.values:
                break
            if isinstance(later, Compute) and not later.region.empty:
                first = self.rank_plan.nodes[later.node].operands[:1]
                if first == (step.value,):
                    padded = self.rules[later.node].padded(later.clipped[0], later.region)
                    whole = whole if padded is None else whole | padded.region
        return whole


class TapedPrograms:
    """The programs of a rank that has trained with them; each is prepared once.

    Parameters
    ----------
    lasting
        Weights by name that are the same tensors in every step.
    """

    def __init__(self, lasting: Weights):
        self.lasting = lasting
        self._known: dict[int, TapedProgram] = {}

    def of(self, stage: PipelineStage, number: int) -> TapedProgram:
        """The program of a micro-batch in a stage."""
        plan = stage.rank_plan
        (program,) = plan.programs[plan.micro_batch_sizes[number]]
        found = self._known.get(id(program))  # it is held, so its number stays its own
        if found is None:
            found = TapedProgram(plan, stage.rules, program, self.lasting)
            self._known[id(program)] = found
        return found
