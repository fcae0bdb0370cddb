"""One rank's share of an epoch: a step for each batch, and a step of the optimizer after it."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from ..errors import OptionError
from ..io.datasets.examples import Examples
from ..ir.region import Region
from ..kernels.devices import CPU
from ..kernels.left_out_compiler import compiler_left_out
from ..runtime import process_memory
from ..runtime.state import Piece
from ..runtime.worker import share_failures
from .batch_reader import BatchReader
from .clipping import clip_gradients
from .loss_scale import LossScale
from .own_optimizer import MakeScheduler, made_optimizer, made_scheduler, progress_of, restore
from .recipe import OPTIMIZERS
from .start import OptimizerState, TrainingStart
from .step import Step, TrainingWorker


@dataclass(frozen=True)
class EpochReport:
    """What a rank returns from an epoch.

    Attributes
    ----------
    losses
        Its share of the loss in each step; the shares of all ranks add up to the loss.
    right
        In each step, the number of positions at which its class is the right one.
    seconds
        Seconds of each step.
    peak_memory_bytes
        Growth of its process above its size before a network was loaded.
    metrics
        In each step, its shares of the plan's metrics, by their values' names.
    learning_rate
        That of the optimizer's first group; None on a rank without parameters.
    loss_scale
        The scale of the loss in the next step, in fp16.
    """

    losses: list[float]
    right: list[int]
    seconds: list[float]
    peak_memory_bytes: int
    metrics: list[Mapping[str, float]]
    learning_rate: float | None
    loss_scale: LossScale | None = None


@dataclass(frozen=True)
class Steps:
    """Steps of an epoch that ranks take in one call.

    Attributes
    ----------
    first, stop
        Number of the first step in the epoch, and of the one after the last.
    streamed
        Whether the examples are those of these steps only, in their order.
    """

    first: int
    stop: int
    streamed: bool = False

    def batches(self, examples: Examples, epoch: int, size: int) -> list[np.ndarray]:
        """Numbers of the examples of each batch.

        Parameters
        ----------
        examples
            The examples.
        epoch
            Number of the epoch.
        size
            Images in a batch.
        """
        if self.streamed:
            starts = range(0, (self.stop - self.first) * size, size)
            return [np.arange(start, start + size) for start in starts]
        order = examples.order(epoch)
        return [order[k * size : (k + 1) * size] for k in range(self.first, self.stop)]


class Trainer:
    """A rank of a training plan, with its optimizer.

    Parameters
    ----------
    worker
        Computes its steps.
    start
        How to train, and the state of the optimizer to begin with.
    """

    def __init__(self, worker: TrainingWorker, start: TrainingStart):
        self.worker, self.recipe, self.own = worker, start.recipe, start.own
        self.num_workers, self._begun = start.num_workers, False
        with compiler_left_out():
            self.optimizer = self._make_optimizer(start.optimizer_state)
            self.scheduler: LRScheduler | None = None
            if self.optimizer is not None:
                if self.own.scheduler is not None:
                    self.scheduler = self._make_scheduler(self.own.scheduler, start.validated)
                restore(self.optimizer, self.scheduler, start.progress)

    def _make_optimizer(self, state: OptimizerState) -> torch.optim.Optimizer | None:
        parameters = self.worker.parameters
        if not parameters:
            return None
        if self.own.optimizer is not None:
            optimizer = made_optimizer(
                self.own.optimizer,
                list(parameters.items()),
                all_stages=self.worker.rank_plan.num_stages == 1,
            )
            if optimizer is None:
                return None
        else:
            options = {"lr": self.recipe.learning_rate, "weight_decay": self.recipe.weight_decay}
            optimizer = OPTIMIZERS[self.recipe.optimizer](list(parameters.values()), **options)
        for name, parameter in parameters.items():
            if name in state:
                optimizer.state[parameter] = copy.deepcopy(_like(parameter, state[name]))
        return optimizer

    def _make_scheduler(self, make: MakeScheduler, validated: bool) -> LRScheduler:
        assert self.optimizer is not None
        scheduler = made_scheduler(make, self.optimizer)
        if isinstance(scheduler, ReduceLROnPlateau) and not validated:
            raise OptionError(
                "ReduceLROnPlateau follows the validation loss: give validation=(images, targets)"
            )
        return scheduler

    def epoch(
        self,
        examples: Examples,
        epoch: int,
        idle_bytes: int,
        after_step: Callable[[int, float], None] = lambda step, loss: None,
        steps: Steps | None = None,
    ) -> EpochReport:
        """Train on all examples once, in whole batches; every rank must be called.

        `end_epoch` is called after it.

        Parameters
        ----------
        examples
            Images and their targets.
        epoch
            Number of the epoch.  The order of the examples, the learning rate and dropout depend on
            it, and on nothing of earlier epochs.
        idle_bytes
            Memory of the process before a network was loaded.
        after_step
            Called after each step with its number and this rank's share of its loss.
        steps
            The steps to take, if not all of the epoch are taken in one call.
        """
        worker = self.worker
        count = len(examples) // sum(worker.rank_plan.micro_batch_sizes)
        with share_failures(worker.transport, lambda: worker.at):
            return self._epoch(examples, epoch, idle_bytes, after_step, steps or Steps(0, count))

    def end_epoch(self, validation_loss: float | None) -> None:
        """Step the scheduler, if there is one.

        Parameters
        ----------
        validation_loss
            The loss of the validation after the epoch; None without one.
        """
        if isinstance(self.scheduler, ReduceLROnPlateau):
            assert validation_loss is not None  # it was refused without a validation
            self.scheduler.step(validation_loss)
        elif self.scheduler is not None:
            self.scheduler.step()

    def _epoch(
        self,
        examples: Examples,
        epoch: int,
        idle_bytes: int,
        after_step: Callable[[int, float], None],
        taken: Steps,
    ) -> EpochReport:
        batch = sum(self.worker.rank_plan.micro_batch_sizes)
        if self.optimizer is not None and self.own.keeps_rates:
            for group in self.optimizer.param_groups:
                group["lr"] = self.recipe.rate(epoch)
        rate = self.optimizer.param_groups[0]["lr"] if self.optimizer is not None else None
        steps, batches = range(taken.first, taken.stop), taken.batches(examples, epoch, batch)
        reader = BatchReader(examples, batches, self.worker.rank_plan, self.worker.device)
        losses, right, seconds, metrics = [], [], [], []
        if not self._begun:
            process_memory.give_back()  # messages with weights and moments of an earlier training
            self._begun = True
        process_memory.restart_peak(self.worker.device)
        with reader.ahead.reading(self.num_workers):
            for number, step in enumerate(steps):
                start = time.perf_counter()
                result, hits = self._step(reader, number, epoch, step)
                seconds.append(time.perf_counter() - start)
                losses.append(result.loss)
                right.append(hits)
                metrics.append(result.metrics)
                after_step(step, result.loss)
        peak = max(0, process_memory.peak_bytes(self.worker.device) - idle_bytes)
        return EpochReport(losses, right, seconds, peak, metrics, rate, self.worker.loss_scale)

    def _step(self, reader: BatchReader, number: int, epoch: int, step: int) -> tuple[Step, int]:
        """Train on a batch; return the results, and this rank's share of the right classes."""
        read_targets = reader.wanted(number)
        targets: dict[Region, torch.Tensor] = {}
        hits: list[int] = []

        def wanted(value: str, region: Region) -> torch.Tensor:
            targets[region] = read_targets(value, region)
            return targets[region]

        def seen(piece: Piece) -> None:
            if piece.region in targets:
                hits.append(_right(piece.tensor, targets.pop(piece.region)))

        seed = (self.recipe.seed * 1_000_003 + epoch) * 1_000_003 + step
        result = self.worker.step(reader.read(number), wanted, seed, seen)
        if self.own.clip is not None and result.finite:
            worker, ranks = self.worker, self.worker.rank_plan.num_ranks
            clip_gradients(
                worker.parameters, worker.buckets, worker.transport, ranks, self.own.clip
            )
        if self.optimizer is not None and result.finite:
            with compiler_left_out():
                self.optimizer.step()
        return result, sum(hits)

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """The current parameters and buffers, by name."""
        return {
            name: weight.detach().to(CPU, copy=True)
            for name, weight in self.worker.weights.items()
            if not name.startswith("=")  # a literal
        }

    @property
    def progress(self) -> dict[str, Any]:
        """The optimizer's groups and the scheduler; empty on a rank without parameters."""
        return {} if self.optimizer is None else progress_of(self.optimizer, self.scheduler)

    @property
    def optimizer_state(self) -> dict[str, dict[str, Any]]:
        """The optimizer's state of each parameter, by the parameter's name."""
        if self.optimizer is None:
            return {}
        state = self.optimizer.state
        return {
            name: _like(parameter.to(CPU), state[parameter])
            for name, parameter in self.worker.parameters.items()
            if parameter in state
        }


def _like(parameter: torch.Tensor, state: Mapping[str, Any]) -> dict[str, Any]:
    """An optimizer's state of a parameter, on the parameter's device and of its dtype.

    PyTorch's count of steps is a tensor of its own dtype on the CPU, and is not converted.
    """
    return {
        name: value.to(parameter) if torch.is_tensor(value) and name != "step" else value
        for name, value in state.items()
    }


def _right(output: torch.Tensor, wanted: torch.Tensor) -> int:
    """The number of positions at which the class of the highest score is the wanted one."""
    if wanted.is_floating_point():
        return 0
    return int((output.argmax(1) == wanted).sum())
