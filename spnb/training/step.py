"""One rank in training: its stage's parameters, and a step over a batch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch

from ..ir.node import Node
from ..ir.rank_plan import RankPlan
from ..ir.schedule import SCHEDULES, in_turns
from ..ir.tags import OVERFLOW
from ..kernels.devices import CPU, computing_on
from ..kernels.half_conv import convolving
from ..rules.dropout import noise
from ..runtime.pipeline_stage import PipelineStage, pipeline_stages_of, turns_in
from ..runtime.state import Piece, Read
from ..runtime.worker import share_failures
from ..transport import Transport
from ..transport.allreduce import AllReduce
from .loss_scale import LossScale
from .loss_shares import LossShares, Wanted
from .losses import Loss
from .reducer import Reducer, buckets_of, completed_by_step
from .running_stats import RunningStats
from .step_weights import StepWeights
from .sums import Sums
from .tapes.patched_tape import PatchedTape, tape_of
from .tapes.tape import Tape
from .tapes.taped_program import TapedPrograms


@dataclass(frozen=True)
class Step:
    """The results of one step on a rank.

    Attributes
    ----------
    loss
        Its share of the loss: the shares of all ranks add up to the mean over the batch.
    most_held
        The largest number of micro-batches that it held at once.
    overlapped_sums
        Number of sums of gradients over ranks that began before the last pass ended.
    metrics
        Its shares of the plan's metrics, means over the batch, by their values' names.
    finite
        Whether the gradients of all ranks are finite; if not, parameters have no gradient.
    """

    loss: float
    most_held: int
    overlapped_sums: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    finite: bool = True


ReportPass = Callable[[str, int, int], None]
"""Takes "forward", "backward" or "between", a stage, and the number of a micro-batch."""


class TrainingWorker:
    """One rank of a training plan; its counterpart in inference is `spnb.runtime.worker.Worker`.

    Parameters
    ----------
    rank_plan
        Its share of the plan.
    weights
        Parameters, buffers and literals that its stage's weights depend on; they are copied.
    trained
        Names of the weights that are trained.
    transport
        Carries its messages.
    loss
        Computes a piece's share of the loss; None if the plan computes it: its first output is
        then the mean over a micro-batch, and the others are metrics.
    schedule
        A key of `spnb.ir.schedule.SCHEDULES`.
    device
        The device that it computes on.

    Attributes
    ----------
    parameters
        By name.  After a `step`, each has its gradient over all ranks and micro-batches.  If the
        plan's precision is a half one, parameters are in fp32, and are rounded for each step.
    loss_scale
        The scale of the loss in fp16; ``None`` in other precisions.
    report_pass
        Called before each pass.
    """

    def __init__(
        self,
        rank_plan: RankPlan,
        weights: Mapping[str, torch.Tensor],
        trained: Collection[str],
        transport: Transport,
        loss: Loss | None,
        schedule: str = "1f1b",
        device: torch.device = CPU,
    ):
        self.rank_plan, self.transport, self.loss = rank_plan, transport, loss
        self.device = device
        self.loss_scale = LossScale() if rank_plan.dtype == torch.float16 else None
        self.stages = pipeline_stages_of(rank_plan)
        rank_plans = [each.computed for each in rank_plan.with_mirror]
        self.weights = {name: tensor.to(device, copy=True) for name, tensor in weights.items()}
        self.parameters = {
            name: tensor.requires_grad_()
            for name, tensor in self.weights.items()
            if name in trained
        }
        self.programs = TapedPrograms(self.weights)
        self.passes = in_turns(SCHEDULES[schedule], rank_plan.num_stages, turns_in(self.stages))
        self.running_stats = RunningStats(rank_plans)
        self.buckets = buckets_of(
            shared=(each for image in rank_plan.with_mirror for each in image.shared),
            parameters=self.parameters,
            running_stats=self.running_stats.moves,
            weights=self.weights,
        )
        self.report_pass: ReportPass = lambda kind, stage, micro_batch: None
        self._tapes: dict[int, Tape | PatchedTape] = {}  # by micro-batch, between its two passes

    def step(
        self,
        read: Read,
        wanted: Wanted,
        seed: int = 0,
        seen: Callable[[Piece], None] = lambda piece: None,
    ) -> Step:
        """Run forward and backward over the batch; then each parameter has its gradient.

        Parameters
        ----------
        read
            Reads a region of the image.
        wanted
            Gives the targets.
        seed
            Seed of dropout's random numbers.
        seen
            Called with each region of the outputs, which is freed afterwards.

        Raises
        ------
        RankError
            If an operator fails here; the other ranks receive the reason.
        PeerFailed
            If another rank fails.
        """
        on_device, fast = computing_on(self.device), convolving({self.rank_plan.dtype}, self.device)
        self._tapes.clear()
        with on_device, share_failures(self.transport, lambda: self.at), fast:
            return self._step(read, wanted, seed, seen)

    @property
    def at(self) -> str:
        """The stage and the operation that it is at, for the message of an error."""
        latest = next(reversed(self._tapes.values()), None)
        if latest is None:
            return f"stage {self.rank_plan.stage}, between micro-batches"
        return f"stage {latest.rank_plan.stage}, {latest.at}"

    def _step(self, read: Read, wanted: Wanted, seed: int, seen: Callable[[Piece], None]) -> Step:
        weights = self._weights_of_step()
        for parameter in self.parameters.values():
            parameter.grad = None  # frees the memory before new gradients are made
        summed = {**weights.made, **self.weights}
        names = (*self.parameters, *weights.made, *self.running_stats.moves)
        reducer = Reducer(self.buckets, {name: summed[name] for name in names}, self.transport)
        passes = _Passes(self, weights, reducer, read, wanted, seed, seen)
        self.transport.barrier()
        for index, (stage, kind, micro_batch) in enumerate(self.passes):
            self.report_pass(kind, self.stages[stage].rank_plan.stage, micro_batch)
            if kind == "forward":
                passes.forward(self.stages[stage], micro_batch)
            else:
                passes.backward(index, micro_batch)
        self.report_pass("between", self.rank_plan.stage, 0)
        overlapped_sums = len(reducer.started)
        weights.add_gradients_of_made(reducer.sums, list(self.parameters))
        reducer.finish()
        finite = self._set_gradients(reducer.sums)
        self.transport.flush()
        return Step(
            loss=passes.shares.loss,
            most_held=passes.most_held,
            overlapped_sums=overlapped_sums,
            metrics=passes.shares.metrics,
            finite=finite,
        )

    def _weights_of_step(self) -> StepWeights:
        return StepWeights.of(
            weights=self.weights,
            parameters=self.parameters,
            rank_plans=[stage.rank_plan.computed for stage in self.stages],
            dtype=self.rank_plan.dtype,
        )

    @cached_property
    def complete_after(self) -> Mapping[tuple[int, int], Sequence[str]]:
        """By pass and step of its program: the parameters with complete gradients after it."""
        return completed_by_step(self.passes, self.stages, self.parameters)

    def _set_gradients(self, sums: Sums) -> bool:
        """Update running statistics, and give each parameter its gradient if all are finite."""
        self.running_stats.update(self.weights, sums)
        finite, factor = True, 1.0
        if self.loss_scale is not None:
            factor = self.loss_scale.factor
            finite = self._finite_everywhere(sums)
            self.loss_scale = self.loss_scale.after(finite)
        for name, parameter in self.parameters.items():
            if finite and factor != 1:
                sums[name].div_(factor)
            parameter.grad = sums[name] if finite else None
        return finite

    def _finite_everywhere(self, sums: Sums) -> bool:
        """Whether the gradients of all ranks are finite."""
        infinite = sum(not bool(sums[name].isfinite().all()) for name in self.parameters)
        count = AllReduce(
            tensor=torch.tensor(float(infinite)),
            ranks=range(self.rank_plan.num_ranks),
            transport=self.transport,
            tag=OVERFLOW.tag(),
        )
        return not count.result()


class _Passes:
    """The forward and backward passes of one step, and the sums over them."""

    def __init__(
        self,
        worker: TrainingWorker,
        weights: StepWeights,
        reducer: Reducer,
        read: Read,
        wanted: Wanted,
        seed: int,
        seen: Callable[[Piece], None],
    ):
        self.worker, self.weights, self.reducer = worker, weights, reducer
        self.read, self.seed, self.seen = read, seed, seen
        self.shares = LossShares(worker.loss, worker.rank_plan.outputs, wanted, worker.loss_scale)
        self.sizes = worker.rank_plan.micro_batch_sizes
        self.tapes = worker._tapes
        self.most_held = 0
        self._output_gradients: dict[int, list[torch.Tensor | None]] = {}

    def forward(self, stage: PipelineStage, micro_batch: int) -> None:
        """Run a micro-batch forward, and add its share of the loss."""
        view = stage.view(self.worker.transport)
        tape = self.tapes[micro_batch] = tape_of(
            self.worker.programs, stage, micro_batch, self.weights.every, view
        )
        with self._dropout(micro_batch):
            tape.forward(self.read, partial(self._record_stats, stage, micro_batch))
        of_batch = self.sizes[micro_batch] / sum(self.sizes)
        gradients = self._output_gradients[micro_batch] = []
        for piece in tape.take_pieces():
            gradients.append(self.shares.gradient_of(piece, of_batch))
            self.seen(piece)
        self.most_held = max(self.most_held, len(self.tapes))

    def backward(self, index: int, micro_batch: int) -> None:
        """Run a micro-batch backward, as the pass of this index."""
        with self._dropout(micro_batch):  # values that are computed again need the same mask
            self.tapes[micro_batch].backward(
                self._output_gradients.pop(micro_batch),
                self.reducer.sums.add,
                partial(self._passed, index),
            )
        del self.tapes[micro_batch]

    def _dropout(self, micro_batch: int) -> AbstractContextManager[None]:
        first_image = self.worker.rank_plan.first_image(micro_batch)
        return noise(self.seed, first_image, sum(self.sizes))

    def _record_stats(
        self, stage: PipelineStage, micro_batch: int, node: Node, operands: Sequence[Any]
    ) -> None:
        if stage.records_statistics:
            self.worker.running_stats.record(
                node, operands, stage.rank_plan.computed, micro_batch, self.reducer.sums
            )

    def _passed(self, index: int, step: int) -> None:
        """After a step of a backward pass, begin the sums over ranks that it completes."""
        if self.worker.rank_plan.replicas.overlapped:
            self.reducer.mark_ready(self.worker.complete_after.get((index, step), ()))
