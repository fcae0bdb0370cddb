"""Trains a network, epoch by epoch, on the ranks of a session; a checkpoint after each."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import torch
from torch import nn

from ..capture.losses import LossFunction
from ..capture.trainable import with_gradient
from ..engine.service import RankWeights
from ..io.examples import Examples
from ..io.sources import NOT_GIVEN, SyntheticSource
from ..ir import weights
from ..job import checkpoint_io
from ..job.job_plan import JobPlan
from ..training.epoch import EpochReport
from ..training.loss_scale import LossScale
from ..training.losses import OWN, positions
from ..training.own_optimizer import OwnOptimizer
from ..training.recipe import Recipe
from ..training.start import TrainingStart
from .checkpoint import Checkpoint
from .training_examples import examples_for_loss, examples_of, loss_of, several_targets
from .training_result import Training
from .training_state import TrainingState, data_of, recipe_for, refuse_useless, resumed


class TrainableRanks(Protocol):
    """The calls of the training loop to ranks with a loaded plan.

    Attributes
    ----------
    plan
        The plan.
    held
        The state of the training since the plan was loaded, if there was one.
    """

    plan: JobPlan
    held: TrainingState | None

    def begin_training(self, module: nn.Module, start: TrainingStart) -> None:
        """Make every rank ready to train a network, from the weights that it has."""

    def share(self, examples: Examples) -> list[Examples]:
        """The examples as each rank can read them."""

    def train_epoch(self, shares: Sequence[Examples], epoch: int) -> list[EpochReport]:
        """Train on all examples once; the report of each rank."""

    def weights_of(self, ranks: Collection[int]) -> list[RankWeights]:
        """The weights of some ranks, and their optimizers' states."""


def train(
    ranks: TrainableRanks,
    images: Any = NOT_GIVEN,
    targets: Any = NOT_GIVEN,
    *,
    loss: str | LossFunction | None = None,
    metrics: Mapping[str, LossFunction] | None = None,
    own: OwnOptimizer,
    say: Callable[[str], None] = lambda text: None,
) -> Training:
    """Train on the ranks of a session; see `spnb.driver.session.Session.train`."""
    plan = ranks.plan
    if not plan.training:
        raise ValueError("this plan is for inference: make it with spnb.plan(job, training=True)")
    refuse_useless(plan.job, own)
    if callable(loss):
        examples = examples_for_loss(plan, images, targets)
        found = loss_of(plan, examples, loss, metrics or {}, several_targets(targets))
        ranks.plan = plan if plan.loss == found else plan.with_loss(found)
        recipe = plan.job.recipe(OWN)
    else:
        if metrics:
            raise ValueError("metrics go with a loss that is a function, as torch.nn.MSELoss()")
        if plan.loss is not None:
            ranks.plan = plan = plan.with_loss(None)
        examples = images if isinstance(images, Examples) else examples_of(plan, images, targets)
        if isinstance(examples.images, SyntheticSource):
            say("no images are given: these are synthetic")
        recipe = recipe_for(plan, examples, loss)
    begun = _begun(ranks, examples, recipe, say)
    return _TrainingLoop(ranks, examples, recipe, own, begun, say).run()


class _TrainingLoop:
    """Epochs on the ranks of a session, from a state on.

    Attributes
    ----------
    module
        The network that is trained: a copy, since a module of the user's own is not changed.
    history
        A row for each step since the first epoch.
    """

    def __init__(
        self,
        ranks: TrainableRanks,
        examples: Examples,
        recipe: Recipe,
        optimizer: OwnOptimizer,
        begun: TrainingState,
        say: Callable[[str], None],
    ):
        self.ranks, self.examples, self.recipe, self.say = ranks, examples, recipe, say
        self.optimizer = optimizer
        self.plan, self.job = ranks.plan, ranks.plan.job
        self.path = Path(self.job.checkpoint) if self.job.checkpoint else None
        self.data = {} if self.path is None else data_of(ranks.plan, examples)
        self.begun, self.until = begun.checkpoint, begun.until
        self.history = list(begun.checkpoint.history)
        self.steps = len(examples) // self.job.batch_size
        self.own = self.plan.loss
        self.classes = self.own is None and examples.known_targets.dtype.kind == "i"
        self.peaks = (0,) * self.plan.num_ranks
        plan = self.plan
        self.module = checkpoint_io.ready(
            plan.module, plan.weights_dtype, self.begun.model, self.path
        )
        self._begin()

    def _begin(self) -> None:
        """Make the ranks ready, with the weights and the optimizer's state of the checkpoint."""
        scale = self.begun.optimizer.get("scaling")
        start = TrainingStart(
            trained=tuple(with_gradient(self.plan.captured, self.job.network.trained)),
            recipe=self.recipe,
            optimizer_state=self.begun.optimizer.get("state", {}),
            num_workers=self.job.num_workers,
            loss_scale=LossScale(**scale) if scale else None,
            own=self.optimizer,
            progress=self.begun.optimizer.get("progress", {}),
        )
        self.ranks.begin_training(self.module, start)

    def run(self) -> Training:
        """Train until the number of epochs is done."""
        shares = self.ranks.share(self.examples)
        self.ranks.held = TrainingState(self.begun, self.until)
        for epoch in range(self.begun.epoch, self.until):
            self._epoch(shares, epoch)
        for name, parameter in self.module.named_parameters():
            parameter.requires_grad_(name in self.job.network.trained)  # to train on in PyTorch
        columns = ["epoch", "step", "loss", "accuracy", "learning_rate", "seconds"]
        return Training(
            plan=self.plan,
            module=self.module,
            history=pd.DataFrame(self.history, columns=[*columns, *self._metrics]),
            checkpoint=self.path if self.begun.epoch < self.until else None,
            peak_memory_bytes=self.peaks,
        )

    @property
    def _metrics(self) -> list[str]:
        return list(self.own.metrics) if self.own else []

    def _epoch(self, shares: Sequence[Examples], epoch: int) -> None:
        """Train on all examples once, take the weights back and write the checkpoint."""
        start = time.perf_counter()
        reports = self.ranks.train_epoch(shares, epoch)
        seconds = time.perf_counter() - start
        rows = [self._row(reports, epoch, step) for step in range(self.steps)]
        self.history += rows
        self.peaks = tuple(
            max(peak, report.peak_memory_bytes)
            for peak, report in zip(self.peaks, reports, strict=True)
        )
        micro_batches = self.steps * len(self.plan.micro_batch_sizes)
        optimizer = fetch_weights(self.ranks, self.module, micro_batches)
        done = self._checkpoint(epoch, optimizer, reports[0].loss_scale)
        self.ranks.held = TrainingState(done, self.until)
        self.say(self._summary(epoch, rows, seconds))
        if self.path is not None:
            done.save(self.path)

    def _row(self, reports: Sequence[EpochReport], epoch: int, step: int) -> dict[str, float]:
        """The figures of a step: sums over the ranks."""
        accuracy = float("nan")
        if self.classes:
            count = positions(self.plan.graph.shape(self.plan.graph.outputs[0]))
            accuracy = sum(report.right[step] for report in reports) / count
        metrics = {}
        values = self.plan.graph.returned[1:] if self.own else ()
        for name, value in zip(self.own.metrics if self.own else (), values, strict=True):
            metrics[name] = sum(report.metrics[step].get(value.value, 0.0) for report in reports)
        return {
            "epoch": epoch,
            "step": step,
            "loss": sum(report.losses[step] for report in reports),
            "accuracy": accuracy,
            "learning_rate": next((r.learning_rate for r in reports if r.learning_rate), 0.0),
            "seconds": max(report.seconds[step] for report in reports),
            **metrics,
        }

    def _summary(self, epoch: int, rows: Sequence[dict[str, float]], seconds: float) -> str:
        loss = sum(row["loss"] for row in rows) / len(rows)
        text = f"epoch {epoch + 1} of {self.until}: loss {loss:.4f}"
        if self.classes:
            text += f", accuracy {sum(row['accuracy'] for row in rows) / len(rows):.1%}"
        return f"{text}, {seconds:.3g} s"

    def _checkpoint(
        self, epoch: int, optimizer: dict[str, Any], loss_scale: LossScale | None
    ) -> Checkpoint:
        """The state of the training after an epoch."""
        optimizer = {"name": self.recipe.optimizer, **optimizer}
        if loss_scale is not None:
            optimizer["scaling"] = asdict(loss_scale)
        return Checkpoint(
            model={name: tensor.clone() for name, tensor in self.module.state_dict().items()},
            optimizer=optimizer,
            epoch=epoch + 1,
            history=list(self.history),
            recipe=vars(self.recipe),
            data=self.data,
        )


def _begun(
    ranks: TrainableRanks, examples: Examples, recipe: Recipe, say: Callable[[str], None]
) -> TrainingState:
    """The state to begin with: what the ranks hold of a training, or that of `resumed`."""
    epochs = ranks.plan.job.num_epochs
    if ranks.held is None:
        begun = resumed(ranks.plan, examples, recipe, say)
        return TrainingState(begun, max(epochs, begun.epoch))
    done, until = ranks.held.checkpoint.epoch, ranks.held.until
    until = until if done < until else done + epochs
    say(f"training goes on with what was trained: {done} of {until} epochs are done")
    return TrainingState(ranks.held.checkpoint, until)


def fetch_weights(ranks: TrainableRanks, module: nn.Module, micro_batches: int) -> dict[str, Any]:
    """Copy the weights from the ranks into the network.

    Parameters
    ----------
    ranks
        The ranks that have trained.
    module
        The network; its parameters and buffers are overwritten.
    micro_batches
        How many there were since the weights were fetched last: batch norms count them.

    Returns
    -------
    dict
        The optimizer's ``state`` of each parameter, by the parameter's name, and the ``progress``
        of its groups and of a scheduler.
    """
    every = weights.named(module)
    state: dict[str, dict[str, Any]] = {}
    progress: dict[str, Any] = {}
    first_ranks = [stage.team.ranks[0] for stage in ranks.plan.stages]
    with torch.no_grad():
        for found, own_state, own_progress in ranks.weights_of(first_ranks):
            state |= own_state
            progress = progress or own_progress
            for name, tensor in found.items():
                every[name].copy_(tensor)
        for name, times in ranks.plan.captured.counted.items():
            every[name] += times * micro_batches
    return {"state": state, "progress": progress}
