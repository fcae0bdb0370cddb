"""One rank at work: it runs its programs, and reports its progress and its failure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
from ..kernels.nan_watch import look, watched
from ..transport import Transport
from .answers import Answers, Skipped
from .compiled_stage import CompiledStage
from .finite import IMAGE, see
from .pipeline_stage import pipeline_stages_of, turns_in
from .state import Piece, Read, RunState
from .trace import Event, Recorder, recorder_on

ReportProgress = Callable[[int, float, Recorder], None]
"""Called with the micro-batches that a rank has done, the share of all its work, and its events."""


def report_nothing(done: int, share: float, recorder: Recorder) -> None:
    """Report no progress."""


@dataclass(frozen=True)
class Outcome:
    """The result of a rank's pass over the batch.

    Attributes
    ----------
    pieces
        The regions of the network's outputs that the rank computed, on the CPU.
    events
        The rank's operations with their times.
    skipped
        The patches of one colour, if answers were to be found for them.
    """

    pieces: list[Piece]
    events: list[Event]
    skipped: Skipped | None = None


class Worker:
    """One rank, ready to run.

    Parameters
    ----------
    rank_plan
        Its share of the plan.
    weights
        The parameters and buffers that its stages read, by name, in the plan's dtype.
    transport
        Its end of the carrier; ``None`` until it is connected.
    device
        Where it computes.

    Attributes
    ----------
    stages
        The pipeline stages that it works in: one, or two where the plan has a mirror.
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
            CompiledStage(stage, weights, device) for stage in pipeline_stages_of(rank_plan)
        ]
        # Only calls in fp32 on a CPU are fused, and only they ask whether a run is clean.
        fuses = device == CPU and torch.float32 in rank_plan.floating_types
        self._watches = fuses and all(bool(t.sum().isfinite()) for t in weights.values())
        self._failed_before = False
        self._convolving = convolving(rank_plan.floating_types, device)

    @property
    def turns(self) -> list[tuple[CompiledStage, int]]:
        """For each of its micro-batches, in order, the stage that computes it and its number."""
        turns = at_once(turns_in([stage.pipeline_stage for stage in self.stages]))
        return [(self.stages[replica], number) for replica, _, turn in turns for number in turn]

    @torch.inference_mode()
    def infer(
        self,
        read: Read,
        report_progress: ReportProgress = report_nothing,
        answers: Answers | None = None,
    ) -> Outcome:
        """Run its stages over all of its micro-batches.

        Parameters
        ----------
        read
            Reads a region of an input.
        report_progress
            Called at the beginning and after each operator.
        answers
            Finds the answers to regions of one colour once; by default each is computed.

        Raises
        ------
        RankError
            If an operator fails here; the other ranks receive the message too.
        PeerFailed
            If another rank fails.
        """
        transport = self._connected()
        if self._failed_before:
            # Messages of the failed run may still arrive in the memory that it used.
            for stage in self.stages:
                stage.compile_programs()
        self._failed_before = True  # reset when this run has ended without a failure
        recorder = recorder_on(self.device)
        run = RunState(transport, self._reader(read), recorder=recorder, answers=answers)
        run.recorder.stage = self.rank_plan.stage
        failures = share_failures(transport, lambda: f"stage {run.recorder.stage}, {run.at}")
        watch = watched(clean=self._watches)
        with computing_on(self.device), failures, self._convolving, watch:
            transport.barrier()
            run.recorder.start()
            self._run_all(run, transport, report_progress)
            transport.flush()
        self._failed_before = False
        pieces = [replace(piece, tensor=piece.tensor.to(CPU)) for piece in run.pieces]
        return Outcome(pieces, run.recorder.finish(), answers.skipped if answers else None)

    def _run_all(
        self, run: RunState, transport: Transport, report_progress: ReportProgress
    ) -> None:
        """Run all actions of all micro-batches, and report after each operator."""
        batches, turns, cost = self.rank_plan.micro_batch_sizes, self.turns, 0.0
        cost_of_all = sum(stage.cost for stage, _ in turns) or 1.0
        report_progress(0, 0.0, run.recorder)
        for done, (stage, number) in enumerate(turns):

            def report_node(
                node: int, done: int = done, costs: Sequence[float] = stage.costs
            ) -> None:
                nonlocal cost
                cost += costs[node]
                report_progress(done, cost / cost_of_all, run.recorder)

            run.report_node = report_node
            run.transport = stage.pipeline_stage.view(transport)
            run.first_image = sum(batches[:number])
            run.recorder.stage, run.recorder.micro_batch = stage.rank_plan.stage, number
            for compiled in stage.compiled_programs[batches[number]]:
                if run.answers is not None:
                    run.answers.run(compiled, stage.rank_plan, run)
                    continue
                for action in compiled.actions:
                    action(run)
        report_progress(len(turns), 1.0, run.recorder)

    def _reader(self, read: Read) -> Read:
        """A function that reads inputs to the device."""

        def read_to_device(value: str, region: Region) -> torch.Tensor:
            found = read(value, region)
            look(found)
            see(IMAGE, "the image", found)
            return found.to(self.device)

        return read_to_device

    def _connected(self) -> Transport:
        if self.transport is None:
            raise RankError(f"rank {self.rank_plan.rank} is not connected to the other ranks")
        return self.transport

    @torch.inference_mode()
    def exchange(
        self, exchange: Exchange, x: torch.Tensor, axes: Axes, replica: int = 0
    ) -> torch.Tensor:
        """Take part in an exchange of a tensor, and return the region that this rank needs.

        Parameters
        ----------
        exchange
            The regions of the tensor that each rank has and needs.
        x
            The region that this rank has.
        axes
            Where the axes of the image lie in the whole tensor.
        replica
            Number, among the pipelines of this rank, of the one that exchanges.
        """
        transport, stage = self._connected(), self.stages[replica]
        view = stage.pipeline_stage.view(transport)
        run = RunState(view, no_image, values={exchange.value: x.to(self.device)})
        compiled = stage.compile_exchange(exchange, axes, x.dtype)
        need = exchange.need(stage.rank_plan.rank)
        take = compiled.values.operand(exchange.value, need, axes)
        failures = share_failures(transport, lambda: f"stage {stage.rank_plan.stage}, {run.at}")
        with computing_on(self.device), failures:
            compiled.send(run)
            compiled.receive(run)
            result: torch.Tensor = take(run)
            transport.flush()
        return result.to(x.device)


@contextmanager
def share_failures(transport: Transport, at: Callable[[], str]) -> Iterator[None]:
    """If this rank fails in the context, make every other rank fail with `PeerFailed`.

    Failures of earlier calls are forgotten first.

    Parameters
    ----------
    transport
        Carries the report of the failure.
    at
        Returns the stage and the operation that the rank is at.

    Raises
    ------
    RankError
        With rank, stage and cause, if this rank fails.
    """
    transport.begin_call()
    try:
        yield
    except (PeerFailed, RankError):  # the other ranks know of it already
        raise
    except BaseException as error:
        text = f"rank {transport.rank}, {at()}: {type(error).__name__}: {error}"
        transport.fail(text)
        if isinstance(error, Exception):
            raise RankError(text) from error
        raise


def no_image(name: str, region: Region) -> torch.Tensor:
    """Refuse to read an input: a single exchange reads no image."""
    raise AssertionError("an exchange reads no image")
