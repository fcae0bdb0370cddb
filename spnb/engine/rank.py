"""One rank at home in a process: its part of the plan, its worker or trainer, and its outputs.

The methods are what a session has its ranks do.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from ..io.examples import Examples
from ..io.sources import Source
from ..io.writers import Store
from ..ir.exchange import Exchange, region_at
from ..ir.rank_plan import RankPlan
from ..ir.region import Region
from ..ir.tags import SAVE
from ..kernels.devices import CPU, compute_exactly, device_of
from ..rules import has_rule
from ..runtime import process_memory
from ..runtime.state import Piece
from ..runtime.worker import ReportProgress, Worker
from ..training.epoch import EpochReport, OptimizerState, Trainer
from ..training.loss_scale import LossScale
from ..training.losses import LOSSES
from ..training.recipe import Recipe
from ..training.step import TrainingWorker
from ..transport import Transport
from ..transport.host_staging import staged_for
from .report import Report

SMALL = 1 << 20
"""Output pieces of a rank up to this many bytes come back with its report."""


def read_tensor(source: Source, region: Region, dtype: torch.dtype) -> torch.Tensor:
    """A region of an image, as the network takes it."""
    array = np.require(source.read(region), requirements="W")  # torch warns of what is read-only
    return torch.from_numpy(array).to(dtype)


def share_cores(rank_plan: RankPlan, ranks_here: int) -> None:
    """Let this process compute with its share of the cores.

    Parameters
    ----------
    rank_plan
        What it will compute.
    ranks_here
        Ranks on this host.
    """
    share = max(1, (os.cpu_count() or 1) // min(ranks_here, rank_plan.at_once))
    torch.set_num_threads(rank_plan.threads or share)


class Rank:
    """One rank, and what it can be asked to do.

    Attributes
    ----------
    plan
        Its share of the plan; ``None`` before a plan is loaded, and where the plan needs no rank
        here.
    device
        Where it computes.
    """

    def __init__(self):
        self.plan: RankPlan | None = None
        self.worker: Worker | None = None
        self.trainer: Trainer | None = None
        self.transport: Transport | None = None
        self.device = CPU
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
        """Make this rank ready to run its part; it may be connected with the others later.

        Parameters
        ----------
        local_rank
            Number of the rank among those of its host, which says what GPU it has.

        Raises
        ------
        DeviceError
            If the host has no GPU, and one is asked for.
        """
        for module in (module for image in rank_plan.with_mirror for module in image.imports):
            importlib.import_module(module)
        for op in (op for image in rank_plan.with_mirror for op in image.ruled):
            if not has_rule(op):
                raise RuntimeError(
                    f"rank {rank_plan.rank} has no rule for the operator {op.rsplit('.', 1)[0]}:"
                    " define operator and rule in a module, or in a cell that begins with"
                    " %%px --local"
                )
        self.unload()
        self.device = device_of(rank_plan.device, local_rank)
        if self.device != CPU:
            compute_exactly()
            self._idle_bytes = 0  # of tensors there
        elif not self._idle_bytes:
            self._idle_bytes = _before_any_network()
        self.plan, self.transport = rank_plan, staged_for(transport, self.device)
        if rank_plan.training:
            self._initial = weights
        else:
            self.worker = Worker(rank_plan, weights, self.transport, self.device)

    def connect(self, transport: Transport) -> None:
        """Reach the other ranks through a transport."""
        self.transport = transport = staged_for(transport, self.device)
        if self.worker is not None:
            self.worker.transport = transport
        if self.trainer is not None:
            self.trainer.worker.transport = transport

    def unload(self) -> None:
        """Forget the plan: this rank takes no part in the one that is loaded now."""
        self.plan = self.worker = self.trainer = self.transport = self._initial = None
        self.outputs.clear()

    def infer(
        self,
        sources: Mapping[str, Source],
        run: int = 0,
        report_progress: ReportProgress = lambda done, share: None,
    ) -> Report:
        """Run the network on a source for each input; every rank of the plan must be called."""
        rank_plan, worker = self._loaded(), self._worker()
        process_memory.restart_peak(self.device)
        outcome = worker.infer(
            lambda name, region: self._read(sources[name], region), report_progress
        )
        self.outputs[run] = outcome.pieces
        size = sum(p.tensor.numel() * p.tensor.element_size() for p in outcome.pieces)
        pieces = outcome.pieces if size <= SMALL else None
        peak = max(0, process_memory.peak_bytes(self.device) - self._idle_bytes)
        return Report(
            rank_plan.world_rank, rank_plan.stage, rank_plan.tile, outcome.events, peak, pieces
        )

    def begin(
        self,
        trained: Sequence[str],
        recipe: Recipe,
        kept: OptimizerState,
        workers: int = 0,
        scaling: LossScale | None = None,
    ) -> None:
        """Make ready to train the parameters of these names; so many threads read ahead."""
        facts = (self._loaded(), self._initial, trained, self.transport, LOSSES[recipe.loss])
        learner = TrainingWorker(*facts, recipe.schedule, recipe.recompute, self.device)
        self._initial = None  # it has copies: the file that they were mapped from is let go
        if scaling is not None:
            learner.loss_scale = scaling
        self.trainer = Trainer(learner, recipe, kept, workers)

    def epoch(
        self,
        examples: Examples,
        epoch: int,
        tell: Callable[[int, float], None] = lambda step, loss: None,
    ) -> EpochReport:
        """Train on all examples once; every rank of the plan must be called."""
        return self.trainer.epoch(examples, epoch, self._idle_bytes, tell)

    def weights(self, wanted: bool) -> tuple[dict, dict] | None:
        """Parameters and buffers as they are now, and what the optimizer keeps, if wanted."""
        return (self.trainer.weights, self.trainer.optimizer_state) if wanted else None

    def save(self, run: int, value: str, store: Store) -> None:
        """Write this rank's part of an output; every rank that has one must be called.

        What of it lies in a chunk of the file that another rank writes is sent there first.
        """
        worker = self._worker()
        pieces = {p.region: p.tensor for p in self.outputs_of(run) if p.value == value}
        for copy, stage in enumerate(worker.stages):
            if any(node.name == value for node in stage.rank_plan.nodes):
                for number in stage.pipeline_stage.pipeline.numbers:
                    self._save(copy, number, pieces, value, store)

    def _save(
        self,
        copy: int,
        number: int,
        pieces: Mapping[Region, torch.Tensor],
        value: str,
        store: Store,
    ) -> None:
        """Write what this rank has of a micro-batch's output, in one copy of the plan."""
        rank_plan = self.worker.stages[copy].rank_plan
        # An output may have several rows along the batch for each image.
        rows_each = store.axes.extent[0] // sum(rank_plan.micro_batch_sizes)
        rows = rank_plan.micro_batch_sizes[number] * rows_each or 1
        first = sum(rank_plan.micro_batch_sizes[:number]) * rows_each
        has = rank_plan.team.tiling.spans((rows, *store.axes.extent[1:]))
        own, needs = region_at(has, rank_plan.position), store.spans(has)
        if own.empty:
            return
        x = pieces[own.moved(first)]
        if needs != has:
            team = rank_plan.team
            exchange = Exchange(SAVE.tag(), value, "save", team, team, has, needs, 0)
            x = self.worker.exchange(exchange, x, store.axes, copy)
        if not (aligned := region_at(needs, rank_plan.position)).empty:
            store.write(aligned.moved(first), x)

    def outputs_of(self, run: int) -> list[Piece]:
        """The regions of a run's outputs that this rank computed.

        Raises
        ------
        RuntimeError
            If another plan was loaded since: its outputs have taken their place.
        """
        if run not in self.outputs:
            raise RuntimeError("the outputs of this run went when another plan was loaded")
        return self.outputs[run]

    def _read(self, source: Source, region: Region) -> torch.Tensor:
        return read_tensor(source, region, self._loaded().dtype)

    def _worker(self) -> Worker:
        if self.worker is None:
            self._loaded()
            raise RuntimeError("the plan on this rank is for training: it has no run to ask for")
        return self.worker

    def _loaded(self) -> RankPlan:
        if self.plan is None:
            raise RuntimeError("no plan is loaded on this rank: cluster.load(plan) first")
        return self.plan


def _before_any_network() -> int:
    """What the process holds before any network: what PyTorch loads to compute is not of it."""
    x = torch.zeros(1, 8, 8, 8)
    torch.nn.functional.conv2d(x, torch.zeros(8, 8, 3, 3))
    return process_memory.resident_bytes()
