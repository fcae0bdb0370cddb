"""Trains a network, epoch by epoch, on the ranks of a session; a checkpoint after each."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import torch
from torch import nn

from ..capture.trainable import with_gradient
from ..engine.service import RankWeights
from ..io.examples import Examples
from ..io.sources import NOT_GIVEN, SyntheticSource
from ..ir import weights
from ..job import checkpoint_io
from ..job.job_plan import JobPlan
from ..training.epoch import EpochReport, OptimizerState
from ..training.loss_scale import LossScale
from ..training.losses import positions
from ..training.recipe import Recipe
from .checkpoint import Checkpoint
from .training_examples import examples_of
from .training_result import Training


class TrainableRanks(Protocol):
    """The calls of the training loop to ranks with a loaded plan.

    Attributes
    ----------
    plan
        The plan.
    """

    plan: JobPlan

    def begin_training(
        self,
        trained: Sequence[str],
        recipe: Recipe,
        optimizer_state: OptimizerState,
        num_workers: int = 0,
        loss_scale: LossScale | None = None,
    ) -> None:
        """Make every rank ready to train the parameters of these names."""

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
    loss: str | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Training:
    """Train on the ranks of a session; see `spnb.driver.session.Session.train`."""
    plan = ranks.plan
    if not plan.training:
        raise ValueError("this plan is for inference: make it with spnb.plan(job, training=True)")
    examples = images if isinstance(images, Examples) else examples_of(plan, images, targets)
    if isinstance(examples.images, SyntheticSource):
        say("no images are given: these are synthetic")
    loop = _TrainingLoop(ranks, examples, *resumed(plan, examples, loss), say)
    return loop.run()


class _TrainingLoop:
    """Epochs on the ranks of a session, from a checkpoint on.

    Attributes
    ----------
    module
        The network that is trained: a copy, since a module of the user's own is not changed.
    history
        A row for each step, those of the checkpoint first.
    """

    def __init__(
        self,
        ranks: TrainableRanks,
        examples: Examples,
        recipe: Recipe,
        begun: Checkpoint,
        say: Callable[[str], None],
    ):
        self.ranks, self.examples, self.recipe, self.say = ranks, examples, recipe, say
        self.plan, self.job = ranks.plan, ranks.plan.job
        self.path = self.job.checkpoint_file
        self.first_epoch, self.history = begun.epoch, list(begun.history)
        self.steps = len(examples) // self.job.batch_size
        self.classes = examples.known_targets.dtype.kind == "i"
        self.peaks = (0,) * self.plan.num_ranks
        plan = self.plan
        if begun.epoch and not weights.equal(plan.module, begun.model):
            # the checkpoint was written after the plan read it
            plan.module = checkpoint_io.ready(
                plan.module, plan.weights_dtype, begun.model, self.path
            )
        self.module = copy.deepcopy(plan.module)
        self._begin(begun)

    def _begin(self, begun: Checkpoint) -> None:
        """Make the ranks ready, with the optimizer's state of the checkpoint."""
        scale = begun.optimizer.get("scaling")
        self.ranks.begin_training(
            trained=with_gradient(self.plan.captured, self.job.network.trained),
            recipe=self.recipe,
            optimizer_state=begun.optimizer.get("state", {}),
            num_workers=self.job.num_workers,
            loss_scale=LossScale(**scale) if scale else None,
        )
        if begun.epoch:
            assert self.path is not None  # epochs are done only in a checkpoint that was read
            total = self.job.num_epochs
            enough = "" if begun.epoch < total else ": give a larger num_epochs to go on"
            self.say(f"{self.path.name}: {begun.epoch} of {total} epochs are done{enough}")

    def run(self) -> Training:
        """Train until the job's number of epochs is done."""
        shares = self.ranks.share(self.examples)
        for epoch in range(self.first_epoch, self.job.num_epochs):
            self._epoch(shares, epoch)
        for name, parameter in self.module.named_parameters():
            parameter.requires_grad_(name in self.job.network.trained)  # to train on in PyTorch
        self.plan.module = self.module
        columns = ["epoch", "step", "loss", "accuracy", "learning_rate", "seconds"]
        return Training(
            plan=self.plan,
            module=self.module,
            history=pd.DataFrame(self.history, columns=columns),
            checkpoint=self.path if self.first_epoch < self.job.num_epochs else None,
            peak_memory_bytes=self.peaks,
        )

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
        optimizer_state = fetch_weights(self.ranks, self.module, micro_batches)
        self.say(self._summary(epoch, rows, seconds))
        if self.path is not None:
            self._save(self.path, epoch, optimizer_state, reports[0].loss_scale)

    def _row(self, reports: Sequence[EpochReport], epoch: int, step: int) -> dict[str, float]:
        """The figures of a step: sums over the ranks."""
        accuracy = float("nan")
        if self.classes:
            count = positions(self.plan.graph.shape(self.plan.graph.outputs[0]))
            accuracy = sum(report.right[step] for report in reports) / count
        return {
            "epoch": epoch,
            "step": step,
            "loss": sum(report.losses[step] for report in reports),
            "accuracy": accuracy,
            "learning_rate": self.recipe.rate(epoch),
            "seconds": max(report.seconds[step] for report in reports),
        }

    def _summary(self, epoch: int, rows: Sequence[dict[str, float]], seconds: float) -> str:
        loss = sum(row["loss"] for row in rows) / len(rows)
        text = f"epoch {epoch + 1} of {self.job.num_epochs}: loss {loss:.4f}"
        if self.classes:
            text += f", accuracy {sum(row['accuracy'] for row in rows) / len(rows):.1%}"
        return f"{text}, {seconds:.3g} s"

    def _save(
        self,
        path: Path,
        epoch: int,
        optimizer_state: OptimizerState,
        loss_scale: LossScale | None,
    ) -> None:
        optimizer: dict[str, Any] = {"name": self.recipe.optimizer, "state": optimizer_state}
        if loss_scale is not None:
            optimizer["scaling"] = asdict(loss_scale)
        Checkpoint(
            model=self.module.state_dict(),
            optimizer=optimizer,
            epoch=epoch + 1,
            history=self.history,
            recipe=vars(self.recipe),
        ).save(path)


def resumed(
    plan: JobPlan, examples: Examples, loss: str | None = None
) -> tuple[Recipe, Checkpoint]:
    """The recipe, and the state to begin with: a checkpoint's, or the plan's weights.

    Raises
    ------
    ValueError
        If the loss does not go with the targets.
    WeightsError
        If the checkpoint was made with another recipe.
    """
    integers, path = examples.known_targets.dtype.kind == "i", plan.job.checkpoint_file
    loss = loss or ("cross_entropy" if integers else "mse")
    if integers != (loss == "cross_entropy"):
        kind = "class numbers" if integers else "numbers like the output"
        raise ValueError(f"the loss {loss} does not go with targets that are {kind}")
    recipe = plan.job.recipe(loss)
    if path is not None and path.exists() and (begun := Checkpoint.read(path)) is not None:
        begun.check(recipe, path)
        return recipe, begun
    return recipe, Checkpoint(plan.module.state_dict())


def fetch_weights(ranks: TrainableRanks, module: nn.Module, micro_batches: int) -> OptimizerState:
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
        The optimizer's state of each parameter, by the parameter's name.
    """
    every = weights.named(module)
    optimizer_state: dict[str, dict[str, Any]] = {}
    first_ranks = [stage.team.ranks[0] for stage in ranks.plan.stages]
    with torch.no_grad():
        for found, state in ranks.weights_of(first_ranks):
            optimizer_state |= state
            for name, tensor in found.items():
                every[name].copy_(tensor)
        for name, times in ranks.plan.captured.counted.items():
            every[name] += times * micro_batches
    return optimizer_state
