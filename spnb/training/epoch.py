"""One rank's share of an epoch: steps over batches, and the optimizer that follows each."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..io.examples import Ahead, Examples
from ..ir.region import Region
from ..kernels.devices import CPU
from ..kernels.half_conv import HALVES
from ..runtime import process_memory
from ..runtime.worker import heard
from .recipe import OPTIMIZERS, Recipe
from .scaling import Scaling
from .step import Learner

OptimizerState = Mapping[str, Mapping[str, Any]]
"""What an optimizer keeps of each parameter, by the parameter's name."""


@dataclass(frozen=True)
class EpochReport:
    """What a rank tells of an epoch.

    Attributes
    ----------
    losses
        Its share of the loss in each step: those of all ranks add up.
    right
        In each step, the positions whose class it got right.
    seconds
        Of each step.
    peak_memory_bytes
        Growth of its process since it was idle.
    scaling
        Of the loss in the next step, in fp16.
    """

    losses: list[float]
    right: list[int]
    seconds: list[float]
    peak_memory_bytes: int
    scaling: Scaling | None = None


class Trainer:
    """A rank of a training plan, with its optimizer.

    Parameters
    ----------
    learner
        Does its steps.
    recipe
        How to train.
    kept
        What the optimizer had kept at the end of an earlier epoch.
    workers
        Threads that read the next batch's images while one is computed.
    """

    def __init__(
        self,
        learner: Learner,
        recipe: Recipe,
        kept: OptimizerState | None = None,
        workers: int = 0,
    ):
        self.learner, self.recipe, self.workers = learner, recipe, workers
        self.optimizer = self._optimizer(kept or {})
        parts = learner.rank_plan.with_mirror
        self._axes = {node.name: node.axes for rank_plan in parts for node in rank_plan.nodes}

    def _optimizer(self, kept: OptimizerState) -> torch.optim.Optimizer | None:
        parameters = self.learner.parameters
        if not parameters:
            return None
        options = {"lr": self.recipe.learning_rate, "weight_decay": self.recipe.weight_decay}
        optimizer = OPTIMIZERS[self.recipe.optimizer](list(parameters.values()), **options)
        for name, parameter in parameters.items():
            if name in kept:
                optimizer.state[parameter] = copy.deepcopy(_like(parameter, kept[name]))
        return optimizer

    def epoch(
        self,
        examples: Examples,
        epoch: int,
        idle_bytes: int,
        tell: Callable[[int, float], None] = lambda step, loss: None,
    ) -> EpochReport:
        """Train on all examples once, in whole batches; every rank must be called.

        Parameters
        ----------
        examples
            What to train on.
        epoch
            Its number: order, learning rate and dropout depend on it, not on what came before.
        idle_bytes
            What the process took when it was idle.
        tell
            Called after each step with its number and this rank's share of its loss.
        """
        learner = self.learner
        with heard(learner.transport, lambda: learner.at):
            return self._epoch(examples, epoch, idle_bytes, tell)

    def _epoch(
        self,
        examples: Examples,
        epoch: int,
        idle_bytes: int,
        tell: Callable[[int, float], None],
    ) -> EpochReport:
        batch, order = sum(self.learner.rank_plan.micro_batch_sizes), examples.order(epoch)
        if self.optimizer is not None:
            for group in self.optimizer.param_groups:
                group["lr"] = self.recipe.rate(epoch)
        steps = len(examples) // batch
        ahead = Ahead(examples, [order[k * batch : (k + 1) * batch] for k in range(steps)])
        losses, right, seconds = [], [], []
        process_memory.restart_peak(self.learner.device)
        with ahead.reading(self.workers):
            for step in range(steps):
                start = time.perf_counter()
                loss, hits = self._step(ahead, epoch, step)
                seconds.append(time.perf_counter() - start)
                losses.append(loss)
                right.append(hits)
                tell(step, loss)
        peak = max(0, process_memory.peak_bytes(self.learner.device) - idle_bytes)
        return EpochReport(losses, right, seconds, peak, self.learner.scaling)

    def _step(self, ahead: Ahead, epoch: int, step: int) -> tuple[float, int]:
        """A batch: this rank's share of the loss, and the positions that it got right."""
        dtype, device, targets = self.learner.rank_plan.dtype, self.learner.device, {}

        def read(value: str, region: Region) -> torch.Tensor:
            return torch.from_numpy(ahead.read(step, region)).to(device, dtype)

        def wanted(value: str, region: Region) -> torch.Tensor:
            found = ahead.examples.wanted(ahead.batches[step], region, self._axes[value]).to(device)
            numbers = torch.float32 if dtype in HALVES else dtype
            targets[region] = found.to(numbers) if found.is_floating_point() else found
            return targets[region]

        seed = (self.recipe.seed * 1_000_003 + epoch) * 1_000_003 + step
        done = self.learner.step(read, wanted, seed)
        if self.optimizer is not None and done.finite:
            self.optimizer.step()
        return done.loss, sum(_right(p.tensor, targets[p.region]) for p in done.pieces)

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """Parameters and buffers as they are now, by name."""
        every = self.learner.weights
        return {n: w.detach().to(CPU, copy=True) for n, w in every.items() if not n.startswith("=")}

    @property
    def kept(self) -> dict[str, dict[str, Any]]:
        """What the optimizer keeps, by the parameter's name."""
        if self.optimizer is None:
            return {}
        pairs, state = self.learner.parameters.items(), self.optimizer.state
        return {name: _like(p.to(CPU), state[p]) for name, p in pairs if p in state}


def _like(parameter: torch.Tensor, kept: Mapping[str, Any]) -> dict[str, Any]:
    """What an optimizer keeps of a parameter, where and of what type it is.

    PyTorch's count of steps is a tensor that stays as it is.
    """
    return {
        name: value.to(parameter) if torch.is_tensor(value) and name != "step" else value
        for name, value in kept.items()
    }


def _right(output: torch.Tensor, wanted: torch.Tensor) -> int:
    """Positions whose class is the wanted one."""
    if wanted.is_floating_point():
        return 0
    return int((output.argmax(1) == wanted).sum())
