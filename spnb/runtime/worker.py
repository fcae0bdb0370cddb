"""Runs one rank's programs: a loop over compute, send, receive and free."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from ..errors import PeerFailed, RankError
from ..ir.axes import Axes
from ..ir.exchange import Exchange
from ..ir.rank_plan import RankPlan
from ..ir.region import Region
from ..ir.schedule import at_once
from ..kernels.devices import CPU, computing_on
from ..kernels.half_conv import convolving
from ..kernels.preallocated import placing
from ..transport import Transport
from .pipeline_stage import CompiledStage
from .role import pipeline_stages_of, turns_in
from .state import Piece, Read, RunState
from .trace import Event, recorder_on

Tell = Callable[[int, float], None]


@dataclass(frozen=True)
class Outcome:
    """What a rank has to show for one pass over the batch."""

    pieces: list[Piece]
    events: list[Event]


class Worker:
    """One rank, ready to run.

    Parameters
    ----------
    rank_plan
        Its share of the plan.
    weights
        The parameters and buffers that its stage reads, in the plan's dtype; those of its mirror
        image's stage too.
    transport
        Its end of the carrier; ``None`` until it is connected.
    device
        Where it computes.

    Attributes
    ----------
    stages
        Its places in the copies of the plan: one, or also its mirror image's.
    """

    @torch.inference_mode()
    def __init__(
        self,
        rank_plan: RankPlan,
        weights: Mapping[str, torch.Tensor],
        transport: Transport | None,
        device: torch.device = CPU,
    ):
        self.rank_plan, self.transport, self.device = rank_plan, transport, device
        self.stages = [
            CompiledStage(role, weights, device) for role in pipeline_stages_of(rank_plan)
        ]
        self._stale, self._convolving = False, convolving(rank_plan.dtype, device)

    @property
    def turns(self) -> list[tuple[CompiledStage, int]]:
        """Its micro-batches in order, each with the place that it has for it."""
        turns = at_once(turns_in([stage.role for stage in self.stages]))
        return [(self.stages[copy], number) for copy, _, turn in turns for number in turn]

    @torch.inference_mode()
    def infer(self, read: Read, tell: Tell = lambda done, share: None) -> Outcome:
        """Run its stages over all of its micro-batches.

        Parameters
        ----------
        read
            Where the image comes from.
        tell
            Called after each operator with the micro-batches done, and the share of all work done.

        Raises
        ------
        RankError
            If an operator fails here; the other ranks are told.
        PeerFailed
            If another rank fails.
        """
        if self._stale:  # what was to arrive in a run that failed may do so still, in that memory
            for stage in self.stages:
                stage.compile_programs()
        self._stale = True
        batches, turns, done, cost = self.rank_plan.micro_batch_sizes, self.turns, 0, 0.0
        cost_of_all = sum(stage.cost for stage, _ in turns) or 1.0

        def told(node: int) -> None:
            nonlocal cost
            cost += stage.costs[node]
            tell(done, cost / cost_of_all)

        def read_there(value: str, region: Region) -> torch.Tensor:
            return read(value, region).to(self.device)

        run = RunState(self.transport, read_there, told, recorder_on(self.device))
        run.recorder.stage = self.rank_plan.stage
        hearing = heard(self.transport, lambda: f"stage {run.recorder.stage}, {run.at}")
        with computing_on(self.device), hearing, placing(), self._convolving:
            self.transport.barrier()
            run.recorder.start()
            for stage, number in turns:
                run.transport = stage.role.over(self.transport)
                run.first_image = sum(batches[:number])
                run.recorder.stage, run.recorder.micro_batch = stage.rank_plan.stage, number
                for compiled in stage.compiled_programs[batches[number]]:
                    for action in compiled.actions:
                        action(run)
                done += 1
            tell(done, 1.0)
            self.transport.flush()
        self._stale = False
        pieces = [replace(piece, tensor=piece.tensor.to(CPU)) for piece in run.pieces]
        return Outcome(pieces, run.recorder.finish())

    @torch.inference_mode()
    def exchange(
        self, exchange: Exchange, x: torch.Tensor, axes: Axes, copy: int = 0
    ) -> torch.Tensor:
        """Take part in an exchange of a tensor that this rank's tile covers; what it then needs.

        Parameters
        ----------
        copy
            Number of the place that it has the tile in.
        """
        stage = self.stages[copy]
        lane = stage.role.over(self.transport)
        run = RunState(lane, _no_image, values={exchange.value: x.to(self.device)})
        compiled, send, receive = stage.moving(exchange, axes, x.dtype)
        whole = compiled.local_values.operand(
            exchange.value, exchange.need(stage.rank_plan.rank), axes
        )
        hearing = heard(self.transport, lambda: f"stage {stage.rank_plan.stage}, {run.at}")
        with computing_on(self.device), hearing:
            send(run)
            receive(run)
            result = whole(run)
            self.transport.flush()
        return result.to(x.device)


@contextmanager
def heard(transport: Transport, at: Callable[[], str]) -> Iterator[None]:
    """Begin with no memory of earlier failures, and let the other ranks hear of one here.

    Parameters
    ----------
    at
        Says in which stage what was being done.
    """
    transport.begin_call()
    try:
        yield
    except (PeerFailed, RankError):  # the others know
        raise
    except BaseException as error:
        text = f"rank {transport.rank}, {at()}: {type(error).__name__}: {error}"
        transport.fail(text)
        if isinstance(error, Exception):
            raise RankError(text) from error
        raise


def _no_image(name: str, region: object) -> torch.Tensor:
    raise AssertionError("an exchange reads no image")
