"""The answers of programs to background, which has one colour: each is computed once.

A slide is background for the most part.  Its patches there read one colour (see
`spnb.io.background`), and like patches have like answers: the first is computed, and what it gave
is written for all others::

    read ─► background? ── no ──► compute … keep
                 │ yes
                 ├─ first of its likeness ─► compute … copy, keep
                 └─ another one           ─► keep the copy
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from ..ir.program import Compute, Keep, Receive, Send, Step
from ..ir.rank_plan import RankPlan
from ..ir.region import Region
from .compiled_program import CompiledProgram
from .state import Action, RunState


@dataclass(frozen=True)
class Answered:
    """A patch of which the rank saw nothing but one colour.

    Attributes
    ----------
    regions
        The values that it gave, and their regions in the whole batch.
    computed
        Whether it was computed; if not, it has another patch's answer.
    """

    regions: tuple[tuple[str, Region], ...]
    computed: bool


@dataclass
class Skipped:
    """The patches of a rank in one pass.

    Attributes
    ----------
    patches
        Their number.
    answered
        Those of one colour.
    """

    patches: int = 0
    answered: list[Answered] = field(default_factory=list)


@dataclass
class Answers:
    """The answers that a rank has found in one pass.

    Parameters
    ----------
    colour
        The numbers of each channel, of the shape of one position of the image.

    Attributes
    ----------
    skipped
        The patches so far.
    """

    colour: torch.Tensor
    skipped: Skipped = field(default_factory=Skipped)
    _known: dict[Hashable, dict[str, torch.Tensor]] = field(default_factory=dict)

    def run(self, compiled: CompiledProgram, rank_plan: RankPlan, run: RunState) -> None:
        """Run a program of a rank, or write what a like one gave for background."""
        steps = list(zip(compiled.program.steps, compiled.actions, strict=True))
        if compiled.likeness is None:
            _run(steps, run)
            return
        read, received = next(
            (k, step) for k, (step, _) in enumerate(steps) if isinstance(step, Receive)
        )
        self.skipped.patches += 1
        before, rest = set(run.values), steps[read + 1 :]
        _run(steps[: read + 1], run)
        if not self._is_background(run.values[received.value]):
            _run(rest, run)
            return
        answer = self._known.get(compiled.likeness)
        regions = tuple(
            (step.value, rank_plan.in_batch(region, step.axes, run.first_image))
            for step, _ in rest
            if isinstance(step, (Keep, Send))
            for region in _given(step)
        )
        self.skipped.answered.append(Answered(regions, computed=answer is None))
        if answer is not None:
            _write(answer, rest, before, run)
            return
        self._known[compiled.likeness] = found = {}
        for step, action in rest:
            if isinstance(step, (Keep, Send)):  # these steps give the value's memory away
                found[step.value] = run.values[step.value].clone()
            action(run)

    def _is_background(self, image: torch.Tensor) -> bool:
        """Whether a region has the colour everywhere."""
        colour = self.colour.to(image.device, image.dtype)
        return bool(((image == colour) | (image.isnan() & colour.isnan())).all())


def _given(step: Keep | Send) -> list[Region]:
    """The regions of its value that a step gives to the tile, to another rank or to the host."""
    return [step.own] if isinstance(step, Keep) else [t.region for t in step.transfers]


def _run(steps: Sequence[tuple[Step, Action]], run: RunState) -> None:
    for _, action in steps:
        action(run)


def _write(
    answer: Mapping[str, torch.Tensor],
    steps: Sequence[tuple[Step, Action]],
    before: Collection[str],
    run: RunState,
) -> None:
    """Give an answer to the steps that keep or send it, without those that compute it."""
    kept = {*before}
    for step, action in steps:
        match step:
            case Compute():
                run.report_node(step.node)
            case Keep() | Send():
                run.values[step.value] = answer[step.value]
                action(run)
                if isinstance(step, Keep) and step.last:
                    kept.add(step.value)
    for value in set(run.values) - kept:
        del run.values[value]
