"""One rank's share of an epoch: steps over batches, and the optimizer that follows each."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from . import memory
from .examples import Ahead, Examples
from .losses import LOSSES
from .program import Part
from .recipe import OPTIMIZERS, Recipe
from .region import Region
from .training import Learner
from .transport import Transport

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
    held
        Most micro-batches that it held at once.
    peak_memory_bytes
        Growth of its process since it was idle.
    """

    losses: list[float]
    right: list[int]
    seconds: list[float]
    held: int
    peak_memory_bytes: int = 0


class Trainer:
    """A rank of a training plan, with its optimizer.

    Parameters
    ----------
    part, weights, transport
        As of `spnb.training.Learner`.
    trained
        Names of the network's parameters.
    recipe
        How to train.
    kept
        What the optimizer had kept at the end of an earlier epoch.
    workers
        Threads that read the next batch's images while one is computed.
    """

    def __init__(
        self,
        part: Part,
        weights: Mapping[str, torch.Tensor],
        trained: Collection[str],
        transport: Transport,
        recipe: Recipe,
        kept: OptimizerState | None = None,
        workers: int = 0,
    ):
        loss, schedule = LOSSES[recipe.loss], recipe.schedule
        self.part, self.recipe, self.workers = part, recipe, workers
        facts = (part, weights, trained, transport, loss, schedule)
        self.learner = Learner(*facts, recipe.recompute)
        self.optimizer = self._optimizer(kept or {})

    def _optimizer(self, kept: OptimizerState) -> torch.optim.Optimizer | None:
        parameters = self.learner.parameters
        if not parameters:
            return None
        options = {"lr": self.recipe.learning_rate, "weight_decay": self.recipe.weight_decay}
        optimizer = OPTIMIZERS[self.recipe.optimizer](list(parameters.values()), **options)
        for name, parameter in parameters.items():
            if name in kept:
                values = {k: v.clone() if torch.is_tensor(v) else v for k, v in kept[name].items()}
                optimizer.state[parameter] = values
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
        batch, order = sum(self.part.batches), examples.order(epoch)
        steps = len(examples) // batch
        if self.optimizer is not None:
            for group in self.optimizer.param_groups:
                group["lr"] = self.recipe.rate(epoch)
        report = EpochReport([], [], [], 0)
        memory.restart_peak()
        held = 0
        ahead = Ahead(examples, [order[k * batch : (k + 1) * batch] for k in range(steps)])
        with ahead.reading(self.workers):
            for step in range(steps):
                chosen = order[step * batch : (step + 1) * batch]

                def read(value: str, region: Region) -> torch.Tensor:
                    return torch.from_numpy(ahead.read(step, region)).to(self.part.dtype)  # noqa: B023

                def wanted(value: str, region: Region) -> torch.Tensor:
                    found = examples.wanted(chosen, region)  # noqa: B023
                    return found.to(self.part.dtype) if found.is_floating_point() else found

                start = time.perf_counter()
                seed = (self.recipe.seed * 1_000_003 + epoch) * 1_000_003 + step
                done = self.learner.step(read, wanted, seed)
                if self.optimizer is not None:
                    self.optimizer.step()
                report.seconds.append(time.perf_counter() - start)
                report.losses.append(done.loss)
                report.right.append(
                    sum(_right(p.tensor, wanted(p.value, p.region)) for p in done.pieces)
                )
                held = max(held, done.held)
                tell(step, done.loss)
        peak = max(0, memory.peak_bytes() - idle_bytes)
        return EpochReport(report.losses, report.right, report.seconds, held, peak)

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """Parameters and buffers as they are now, by name."""
        every = self.learner.weights
        return {name: w.detach().clone() for name, w in every.items() if not name.startswith("=")}

    @property
    def kept(self) -> dict[str, dict[str, Any]]:
        """What the optimizer keeps, by the parameter's name."""
        if self.optimizer is None:
            return {}
        pairs = self.learner.parameters.items()
        return {n: dict(self.optimizer.state[p]) for n, p in pairs if p in self.optimizer.state}


def _right(output: torch.Tensor, wanted: torch.Tensor) -> int:
    """Positions whose class is the wanted one."""
    if wanted.is_floating_point():
        return 0
    return int((output.argmax(1) == wanted).sum())
