"""A tile in training that is computed in patches, in the memory of one.

Each patch has a tape, as if it were a rank.  One tape computes at a time.  Where it waits for other
patches, its values are put on disk, and the next tape computes::

    patch 0   compute │ wait for halos …                    │ compute │ wait …
    patch 1           │ compute │ wait …                              │ compute
    patch 2                     │ compute │ wait …
    on disk           │ 0       │ 0 1     │ 0 1 2           │ 1 2     │ 0 2

So patches exchange halos, and figures of the whole image, as ranks do, and the result is the same.
No tape has recorded calls while it waits: between the passes there are only the values at the
beginnings of segments, which end where a pass waits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ...ir.node import Node
from ...ir.program import Segments
from ...ir.rank_plan import Patches, RankPlan
from ...rules import Rule, rule_of
from ...runtime import allocator
from ...runtime.pipeline_stage import PipelineStage
from ...runtime.state import Piece, Read
from ...runtime.trace import Recorder
from ...transport import Arrival, Messages
from ...transport.patch_messages import PatchMessages
from .tape import Tape, Waits
from .taped_program import TapedProgram, TapedPrograms
from .value_store import DiskStore

Computed = Callable[[Node, Sequence[Any]], None]
"""Called after each call with its operands."""


def tape_of(
    programs: TapedPrograms,
    stage: PipelineStage,
    number: int,
    weights: Mapping[str, torch.Tensor],
    transport: Messages,
) -> Tape | PatchedTape:
    """The tape of a micro-batch on a rank.

    Parameters
    ----------
    programs
        The programs of the rank.
    stage
        The stage that the rank works in.
    number
        Number of the micro-batch.
    weights
        Parameters, buffers and constants by name; those that require a gradient get one.
    transport
        Carries the messages of the stage's pipeline.
    """
    patches = stage.rank_plan.patches
    if patches is None:
        return Tape.of(programs, stage, number, weights, transport)
    return PatchedTape(stage.rank_plan, patches, number, weights, transport)


@dataclass
class _Turn:
    """The pass of one patch, and the messages for which it waits."""

    tape: Tape
    waits: Waits
    awaited: Sequence[Arrival] = ()

    def ready(self) -> bool:
        return all(arrival.done() for arrival in self.awaited)


class PatchedTape:
    """The tapes of all patches of a tile, for one micro-batch.

    Parameters
    ----------
    rank_plan, patches
        The rank's share of the plan, and its patches.
    number
        Number of the micro-batch.
    weights
        Parameters, buffers and constants by name.
    transport
        Carries messages to other ranks.
    recorder
        Collects the times of the turns.
    recorded
        Whether a backward pass may follow.

    Attributes
    ----------
    rank_plan
        The rank's share of the plan.
    tapes
        The tape of each patch.
    """

    def __init__(
        self,
        rank_plan: RankPlan,
        patches: Patches,
        number: int,
        weights: Mapping[str, torch.Tensor],
        transport: Messages,
        recorder: Recorder | None = None,
        recorded: bool = True,
    ):
        self.rank_plan, self.patches, self.transport = rank_plan, patches, transport
        self.recorder = recorder or Recorder()
        self.images = rank_plan.micro_batch_sizes[number]
        self.store = DiskStore()
        rules = [rule_of(node) for node in rank_plan.computed.nodes]
        self.tapes = [
            self._tape(each, rules, weights, rank_plan.first_image(number), recorded)
            for each in patches.rank_plans
        ]
        self._latest = self.tapes[0]

    def _tape(
        self,
        rank_plan: RankPlan,
        rules: Sequence[Rule],
        weights: Mapping[str, torch.Tensor],
        first_image: int,
        recorded: bool,
    ) -> Tape:
        (program,) = rank_plan.programs[self.images]
        segments = Segments.between_waits(program)
        return Tape(
            shared=TapedProgram(rank_plan, rules, program),
            weights=weights,
            transport=self.transport,  # its passes have messages of their own
            first_image=first_image,
            segments=segments if recorded else Segments.dropped(program),
            store=self.store,
        )

    @property
    def at(self) -> str:
        """The operation that it is at, for the message of an error."""
        return self._latest.at

    @property
    def pieces(self) -> list[Piece]:
        """The regions of the network's outputs that the patches computed."""
        return [piece for tape in self.tapes for piece in tape.pieces]

    def take_pieces(self) -> list[Piece]:
        """The same regions, which the tapes hold no longer."""
        return [piece for tape in self.tapes for piece in tape.take_pieces()]

    def forward(
        self,
        read: Read,
        computed: Computed = lambda node, operands: None,
        report: Callable[[float], None] = lambda share: None,
    ) -> None:
        """Run all patches forward; `Tape.forward` has the first parameters.

        Figures of a call are those of all patches, so ``computed`` is called for one patch only.
        ``report`` is called with the share of all turns that are done.
        """
        self._connect(goes_back=False)
        last = self.patches.rank_plans[-1].rank
        nothing: Computed = lambda node, operands: None  # noqa: E731
        self._run(
            [
                tape.forward_waits(read, computed if tape.rank_plan.rank == last else nothing)
                for tape in self.tapes
            ],
            report,
        )

    def backward(
        self,
        outputs: list[torch.Tensor | None],
        add: Callable[[str, torch.Tensor], None],
        passed: Callable[[int], None] = lambda number: None,
    ) -> None:
        """Run all patches backward; `Tape.backward` has the parameters.

        No step is passed by all patches before the end, so ``passed`` is not called.
        """
        self._connect(goes_back=True)
        outputs.reverse()
        of_tapes = [[outputs.pop() for _ in range(tape.shared.outputs)] for tape in self.tapes]
        self._run([tape.backward_waits(of_tapes.pop(0), add) for tape in self.tapes])

    def _connect(self, goes_back: bool) -> None:
        """Give each tape its messages of a pass."""
        self._messages = PatchMessages(self.transport, self.patches, self.images, goes_back)
        for tape in self.tapes:
            tape.transport = self._messages.of(tape.rank_plan.rank)

    def _run(
        self, passes: Sequence[Waits], report: Callable[[float], None] = lambda share: None
    ) -> None:
        """Run the passes of all patches in turns, each until it waits."""
        done, count = 0, sum(len(tape.segments.starts) for tape in self.tapes) or len(passes)
        waiting = [_Turn(tape, waits) for tape, waits in zip(self.tapes, passes, strict=True)]
        while waiting:
            ready = [turn for turn in waiting if turn.ready()]
            if not ready:
                start = self.recorder.now()
                self._messages.wait_for_any([turn.awaited for turn in waiting])
                self.recorder.note(start, "wait", "", "patch")
            for turn in ready:
                start = self.recorder.now()
                if self._runs_to_its_end(turn):
                    waiting.remove(turn)
                self.recorder.note(start, "compute", turn.tape.layer, "patch")
                done += 1
                report(min(1.0, done / count))

    def _runs_to_its_end(self, turn: _Turn) -> bool:
        """Run a patch until it has to wait; return whether its pass has ended."""
        self._latest = turn.tape
        turn.tape.values.take_back(self.store)
        while turn.ready():
            self._messages.finish(turn.awaited)
            turn.awaited = next(turn.waits, ())
            if not turn.awaited:
                break
        turn.tape.values.put_away(self.store)
        allocator.trim()  # else the memory of each turn would be added to the last one's
        return not turn.awaited
