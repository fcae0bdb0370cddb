"""One rank in its process: its share of the plan, its worker or trainer, and its outputs.

A session calls its methods: see `spnb.engine.service.RankService`.  The module is longer than
others since each of them is documented.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from ..io.background import background_of
from ..io.datasets.examples import Examples
from ..io.sources import Source
from ..io.tensors import numpy_floats, read_tensor
from ..io.writing.writers import Store
from ..ir.rank_plan import RankPlan
from ..ir.region import Region
from ..ir.value_range import ValueRange
from ..kernels.devices import CPU, compute_exactly, device_of
from ..runtime import process_memory
from ..runtime.answers import Answers
from ..runtime.finite import first_not_finite
from ..runtime.output_samples import OutputSample, OutputWindow, sampled
from ..runtime.state import Piece
from ..runtime.worker import Worker, share_failures
from ..training.epoch import EpochReport, Steps, Trainer
from ..training.evaluation import EvaluationReport, EvaluationTask
from ..training.losses import LOSSES
from ..training.patched_worker import worker_for
from ..training.start import TrainingStart
from ..training.step import TrainingWorker
from ..transport import Transport
from ..transport.host_staging import staged_for
from ..transport.slow_link import slowed
from .activity import Activity
from .evaluation import evaluated, waited_for_others, worker_of
from .operators import import_operators
from .output_saving import save_regions
from .progress import Publish
from .report import Report
from .service import BY_ITSELF, InferTask, RankShare, RankWeights

SMALL = 1 << 20
"""Most bytes of a rank's outputs that are sent with its report."""


class Rank:
    """One rank, and the operations that a session calls.

    Attributes
    ----------
    plan
        Its share of the plan; ``None`` before a plan is loaded, and if the plan does not need this
        rank.
    device
        The device that it computes on.
    publish
        Makes its progress visible to the caller; by default it does nothing.
    """

    def __init__(self) -> None:
        self.plan: RankPlan | None = None
        self.worker: Worker | None = None
        self.trainer: Trainer | None = None
        self.transport: Transport | None = None
        self.device = CPU
        self.publish: Publish = lambda figures: None
        self.activity: Activity | None = None  # in a run, or in an epoch
        self.outputs: dict[int, list[Piece]] = {}
        self._idle_bytes = 0
        self._initial: Mapping[str, torch.Tensor] | None = None

    def load(
        self,
        rank_plan: RankPlan,
        weights: Mapping[str, torch.Tensor],
        transport: Transport | None,
        local_rank: int = 0,
    ) -> None:
        """Load this rank's share of a plan; `connect` may follow later.

        Parameters
        ----------
        rank_plan
            Its share of the plan.
        weights
            The weights of its stage by name.
        transport
            Carries its messages; ``None`` until it is connected.
        local_rank
            Number of the rank among those of its host; it determines the GPU.

        Raises
        ------
        DeviceError
            If the plan asks for a GPU, and the host has none.
        RuntimeError
            If it has no rule for an operator.
        """
        import_operators(rank_plan)
        self.unload()
        self.device = device_of(rank_plan.device, local_rank)
        if self.device != CPU:
            compute_exactly()
            self._idle_bytes = 0  # on a GPU, only tensors count
        elif not self._idle_bytes:
            self._idle_bytes = process_memory.bytes_before_any_network()
        self.plan = rank_plan
        self.transport = None if transport is None else self._carrier(transport)
        if rank_plan.training:
            self._initial = weights
        else:
            self.worker = worker_for(rank_plan, weights, self.transport, self.device)

    def connect(self, transport: Transport) -> None:
        """Exchange messages with other ranks through a transport from now on.

        Parameters
        ----------
        transport
            Carries the messages; on a GPU, by way of the host's memory where it must.
        """
        self.transport = transport = self._carrier(transport)
        if self.worker is not None:
            self.worker.transport = transport
        if self.trainer is not None:
            self.trainer.worker.transport = transport

    def _carrier(self, transport: Transport) -> Transport:
        """A carrier of tensors on this rank's device, over a slow link if the plan asks for one."""
        link = None if self.plan is None else self.plan.slow_link
        return staged_for(slowed(transport, link), self.device)

    def note_wait(self) -> None:
        """Note that the rank waits at this moment; a transport calls it while it waits."""
        if self.activity is not None:
            self.activity.waits()

    def unload(self) -> None:
        """Free the plan, its weights and its outputs."""
        self.plan = self.worker = self.trainer = self.transport = self._initial = None
        self.outputs.clear()

    def infer(self, sources: Mapping[str, Source], task: InferTask = BY_ITSELF) -> Report:
        """Run the network; every rank of the plan must be called.

        Parameters
        ----------
        sources
            A source for each input that it reads, by the input's name.
        task
            The run's number, earlier runs whose outputs are freed, and what is looked for.

        Returns
        -------
        Report
            Events with their seconds and bytes, peak memory in bytes, and small outputs; large
            outputs stay on this rank.
        """
        for old in task.released:
            self.outputs.pop(old, None)
        process_memory.collect_young()
        rank_plan, worker = self._loaded(), self._worker()
        process_memory.restart_peak(self.device)
        with self._acting() as activity, first_not_finite(task.check_finite) as not_finite:
            outcome = worker.infer(
                lambda name, region: read_tensor(sources[name], region, rank_plan.dtype),
                lambda done, share, recorder: activity.report(
                    recorder, share == 1.0, run=task.run, done=done, share=share
                ),
                _answers(sources, rank_plan.dtype),
            )
        self.outputs[task.run] = outcome.pieces
        size = sum(p.tensor.numel() * p.tensor.element_size() for p in outcome.pieces)
        pieces = outcome.pieces if size <= SMALL else None
        peak = max(0, process_memory.peak_bytes(self.device) - self._idle_bytes)
        return Report(
            rank_plan.world_rank,
            rank_plan.stage,
            rank_plan.tile,
            outcome.events,
            peak,
            pieces,
            next(iter(not_finite), None),
            outcome.skipped,
        )

    def begin_training(self, start: TrainingStart) -> None:
        """Prepare to train, from the weights that were loaded.

        Parameters
        ----------
        start
            What this rank trains and how, and the state of its optimizer.
        """
        rank_plan = self._loaded()
        assert self._initial is not None  # a session loads the plan again before it trains
        assert self.transport is not None  # a session connects a rank before it calls it
        worker = TrainingWorker(
            rank_plan=rank_plan,
            weights=self._initial,
            trained=start.trained,
            transport=self.transport,
            loss=LOSSES.get(start.recipe.loss),  # none: the plan computes it
            schedule=start.recipe.schedule,
            device=self.device,
        )
        self._initial = None  # the worker has copied them, so their file may be unmapped
        if start.loss_scale is not None:
            worker.loss_scale = start.loss_scale
        self.trainer = Trainer(worker, start)

    def train_epoch(
        self, examples: Examples, epoch: int, steps: Steps | None = None
    ) -> EpochReport:
        """Train on all examples once; every rank of the plan must be called.

        Parameters
        ----------
        examples
            Images and targets, in a form that this rank can read.
        epoch
            Number of the epoch, from 0.
        steps
            The steps to take, if not all of the epoch are taken in one call.

        Returns
        -------
        EpochReport
            This rank's share of the loss of each step, and its seconds and bytes.
        """
        trainer = self._trainer()
        with self._acting() as activity:
            activity.report(epoch=epoch, steps=0 if steps is None else steps.first)
            trainer.worker.report_pass = activity.turn
            return trainer.epoch(
                examples,
                epoch,
                self._idle_bytes,
                lambda step, loss: activity.report(epoch=epoch, steps=step + 1),
                steps,
            )

    def end_epoch(self, validation_loss: float | None) -> dict[str, Any]:
        """Step the scheduler after an epoch.

        Parameters
        ----------
        validation_loss
            The loss of the validation after the epoch; None without one.

        Returns
        -------
        dict
            The progress of the optimizer's groups and of the scheduler.
        """
        trainer = self._trainer()
        trainer.end_epoch(validation_loss)
        return trainer.progress

    def evaluate(
        self, examples: Examples, task: EvaluationTask, share: RankShare | None = None
    ) -> EvaluationReport:
        """Sum loss and metrics over examples; every rank of the loaded plan must be called.

        Parameters
        ----------
        examples
            Images and targets, in a form that this rank can read.
        task
            What is summed over which of the examples.
        share
            This rank's share of another plan for inference, which is run in place of the loaded
            plan; a training on this rank stays as it is.

        Returns
        -------
        EvaluationReport
            This rank's shares of the sums, and its seconds and bytes.
        """
        assert self.transport is not None  # a session connects a rank before it calls it
        if share is None:
            worker: Worker | None = self._worker()
        else:
            worker = worker_of(share, self.transport, self.device)
        if worker is None:
            return waited_for_others(task, self.transport)
        return evaluated(worker, examples, task, self._idle_bytes, self.publish)

    def weights(self) -> RankWeights:
        """The current weights of this rank's stage.

        Returns
        -------
        RankWeights
            Weights by name, the optimizer's state by parameter, and the progress of its groups.
        """
        trainer = self._trainer()
        return trainer.weights, trainer.optimizer_state, trainer.progress

    def save(self, run: int, value: str, store: Store) -> None:
        """Write this rank's regions of an output; every rank that has one must be called.

        See `spnb.engine.output_saving.save_regions`.

        Parameters
        ----------
        run
            Number of the run.
        value
            Name of the output in the graph.
        store
            The file.

        Raises
        ------
        RankError
            If it cannot be written; the other ranks receive the message too.
        """
        worker = self._worker()
        assert self.transport is not None  # a session connects a rank before it calls it
        tensors = {p.region: p.tensor for p in self.outputs_of(run) if p.value == value}
        with share_failures(self.transport, lambda: f"stage {worker.rank_plan.stage}, save"):
            save_regions(worker, tensors, value, store)

    def outputs_of(self, run: int) -> list[Piece]:
        """The regions of a run's outputs that this rank computed.

        Parameters
        ----------
        run
            Number of the run, as `infer` was given it.

        Returns
        -------
        list of Piece
            A region of an output and its tensor, each.

        Raises
        ------
        RuntimeError
            If the run is not known: another plan was loaded after it.
        """
        if run not in self.outputs:
            raise RuntimeError("the outputs of this run were freed when another plan was loaded")
        return self.outputs[run]

    def outputs_sampled(self, run: int, window: OutputWindow) -> list[OutputSample]:
        """What this rank has of a part of an output, for a picture of it.

        Parameters
        ----------
        run
            Number of the run.
        window
            The part, and which of its positions.

        Returns
        -------
        list of OutputSample
            Numbers, and their place.

        Raises
        ------
        RuntimeError
            If the run is not known: another plan was loaded after it.
        """
        return sampled(self.outputs_of(run), window)

    def output_range(self, run: int, value: str) -> ValueRange:
        """The range of the numbers of an output, as far as this rank computed it.

        Parameters
        ----------
        run
            Number of the run.
        value
            Name of the output in the graph.

        Returns
        -------
        ValueRange
            The smallest and the largest number.

        Raises
        ------
        RuntimeError
            If the run is not known: another plan was loaded after it.
        """
        pieces = (piece for piece in self.outputs_of(run) if piece.value == value)
        return ValueRange.joined(ValueRange.of(piece.tensor) for piece in pieces)

    @contextmanager
    def _acting(self) -> Iterator[Activity]:
        """Publish what this rank does while the context is open."""
        self.activity = Activity(self.publish)
        try:
            yield self.activity
        finally:
            self.activity = None

    def _worker(self) -> Worker:
        if self.worker is None:
            self._loaded()
            raise RuntimeError("the plan on this rank is for training: load one for inference")
        return self.worker

    def _trainer(self) -> Trainer:
        assert self.trainer is not None  # a session calls `begin_training` first
        return self.trainer

    def _loaded(self) -> RankPlan:
        if self.plan is None:
            raise RuntimeError("no plan is loaded on this rank: cluster.load(plan) first")
        return self.plan


def _answers(sources: Mapping[str, Source], dtype: torch.dtype) -> Answers | None:
    """Finds the answers to background once, if the image says what is background."""
    found = next(filter(None, map(background_of, sources.values())), None)
    if found is None:
        return None
    pixel = Region.whole((1,) * (len(found.shape) - 1))
    return Answers(torch.from_numpy(found.blank(pixel, numpy_floats(dtype))).to(dtype))
