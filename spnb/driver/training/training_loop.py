"""Trains a network, epoch by epoch, on the ranks of a session; a checkpoint after each.

The module is longer than 300 lines since a loop that may be left and resumed is one thought.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from ...capture.trainable import with_gradient
from ...io.datasets.examples import Examples
from ...io.disk.targets import refuse_unwritable
from ...job import checkpoint_io
from ...training.epoch import EpochReport, Steps
from ...training.loss_scale import LossScale
from ...training.losses import OWN
from ...training.recipe import Recipe
from ...training.start import TrainingStart
from .batch_stream import BatchStream, stream_of
from .callbacks import EpochRecord, StepRecord
from .checkpoint import Checkpoint
from .step_figures import COLUMNS, Row, StepFigures, epoch_figures, in_words
from .trainable_ranks import TrainableRanks, begun_training, fetch_weights
from .training_examples import examples_for_loss, examples_of, loss_of, several_targets
from .training_request import Request, validation_for
from .training_result import Training
from .training_state import (
    TrainingState,
    data_of,
    loss_name_for,
    recipe_for,
    refuse_useless,
)
from .validation import Best, Validation


def train(
    ranks: TrainableRanks,
    images: Any,
    targets: Any,
    request: Request,
    say: Callable[[str], None],
) -> Training:
    """Train on the ranks of a session; see `spnb.driver.session.Session.train`."""
    plan, loss = ranks.plan, request.loss
    if not plan.training:
        raise ValueError("this plan is for inference: make it with spnb.plan(job, training=True)")
    refuse_useless(plan.job, request.own)
    if plan.job.checkpoint is not None:
        refuse_unwritable(Path(plan.job.checkpoint), "checkpoint")
    validation = validation_for(ranks, request)
    stream = stream_of(plan.job, images, targets, say)
    if stream is not None:
        stream.refuse_contradictions()
        images, targets = stream.first()
    streamed = stream is not None  # then this is a first item, not a whole batch
    if callable(loss):
        examples = examples_for_loss(plan, images, targets, any_number=streamed)
        found = loss_of(plan, examples, loss, request.metrics, several_targets(targets))
        ranks.plan = plan if plan.loss == found else plan.with_loss(found)
        recipe = plan.job.recipe(OWN)
    else:
        if request.metrics:
            raise ValueError("metrics go with a loss that is a function, as torch.nn.MSELoss()")
        if plan.loss is not None:
            ranks.plan = plan = plan.with_loss(None)
        given = isinstance(images, Examples)
        examples = images if given else examples_of(plan, images, targets, any_number=streamed)
        if examples.synthetic:
            say("no images are given: these are synthetic")
        recipe = recipe_for(plan, examples, loss)
    if stream is None and (rest := len(examples) % plan.job.batch_size):
        size = plan.job.batch_size
        say(f"the last {rest} images of an epoch fill no batch of {size}: left out")
    begun = begun_training(ranks, examples, stream, recipe, say)
    return _TrainingLoop(ranks, examples, stream, recipe, request, validation, begun, say).run()


class _TrainingLoop:
    """Epochs on the ranks of a session, from a state on.

    Attributes
    ----------
    module
        The network that is trained: a copy, since a module of the user's own is not changed.
    history
        A row for each step since the first epoch.
    best
        The epoch with the smallest validation loss so far.
    """

    def __init__(
        self,
        ranks: TrainableRanks,
        examples: Examples,
        stream: BatchStream | None,
        recipe: Recipe,
        request: Request,
        validation: Validation | None,
        begun: TrainingState,
        say: Callable[[str], None],
    ):
        self.ranks, self.examples, self.recipe, self.say = ranks, examples, recipe, say
        self.stream = stream
        self.own, self.callbacks, self.validation = request.own, request.callbacks, validation
        self.plan, self.job = ranks.plan, ranks.plan.job
        self.path = Path(self.job.checkpoint) if self.job.checkpoint else None
        self.data = {} if self.path is None else data_of(ranks.plan, examples, stream)
        self.begun, self.until = begun.checkpoint, begun.until
        self.history = list(begun.checkpoint.history)
        classes = self.plan.loss is None and examples.known_targets.dtype.kind == "i"
        self.figures = StepFigures(self.plan, classes)
        self.peaks = (0,) * self.plan.num_ranks
        self.best = self._best_so_far()
        plan = self.plan
        self.module = checkpoint_io.ready(
            plan.module, plan.weights_dtype, self.begun.model, self.path
        )

    def _best_so_far(self) -> Best | None:
        """The best epoch of the state to begin with, unless it had another validation."""
        best = Best.read(self.begun.best)
        if best is None or self.validation is None:
            return best
        if best.targets == self.validation.targets_hash:
            return best
        self.say("the validation targets are others than before: the best epoch is sought anew")
        return None

    def _begin(self) -> None:
        """Make the ranks ready, with the weights and the optimizer's state of the checkpoint."""
        scale = self.begun.optimizer.get("scaling")
        trained = with_gradient(self.plan.captured, self.job.network.trained)
        if not trained:
            raise ValueError(
                "nothing would be trained: all parameters of the network are frozen"
                if not self.job.network.trained
                else "nothing would be trained: no gradient goes from the loss to a parameter of"
                " the network, as after argmax, detach() or no_grad()"
            )
        start = TrainingStart(
            trained=tuple(trained),
            recipe=self.recipe,
            optimizer_state=self.begun.optimizer.get("state", {}),
            num_workers=self.job.num_workers,
            loss_scale=LossScale(**scale) if scale else None,
            own=self.own,
            progress=self.begun.optimizer.get("progress", {}),
            validated=self.validation is not None,
        )
        self.ranks.begin_training(self.module, start)

    def run(self) -> Training:
        """Train until the number of epochs is done, or training ends early."""
        over = self.ranks.held is None and self._is_over(self.begun.epoch)
        self._begin()
        shares = [] if self.stream is not None else self.ranks.share(self.examples)
        self.ranks.held = TrainingState(self.begun, self.until)
        for epoch in () if over else range(self.begun.epoch, self.until):
            wanted = self._epoch(shares, epoch)
            if self._is_over(epoch + 1) or wanted:
                self.ranks.held = TrainingState(self.ranks.held.checkpoint, epoch + 1)
                break
        for name, parameter in self.module.named_parameters():
            parameter.requires_grad_(name in self.job.network.trained)  # to train on in PyTorch
        names = [*COLUMNS, *(self.plan.loss.metrics if self.plan.loss else ())]
        columns = dict.fromkeys([*names, *(name for row in self.history for name in row)])
        return Training(
            plan=self.plan,
            module=self.module,
            history=pd.DataFrame(self.history, columns=list(columns)),
            checkpoint=self.path if self.begun.epoch < self.until else None,
            peak_memory_bytes=self.peaks,
            best=None if self.best is None else self._network_of(self.best),
            best_epoch=None if self.best is None else self.best.epoch,
        )

    def _network_of(self, best: Best) -> nn.Module:
        """The network with the weights of the best epoch."""
        found = checkpoint_io.ready(self.plan.module, self.plan.weights_dtype, best.model)
        for name, parameter in found.named_parameters():
            parameter.requires_grad_(name in self.job.network.trained)
        return found

    def _is_over(self, done: int) -> bool:
        """Whether the validation loss has not become smaller for long; if so, say it."""
        if self.validation is None or not self.validation.is_over(self.best, done):
            return False
        assert self.best is not None  # it is over only after a validation
        self.say(
            f"training ends early: in {self.validation.patience} epochs the validation loss was"
            f" not below the {self.best.loss:.4f} of epoch {self.best.epoch + 1}"
        )
        return True

    def _epoch(self, shares: Sequence[Examples], epoch: int) -> bool:
        """Train on all examples once, validate, and write the checkpoint; whether to end then."""
        start = time.perf_counter()
        rows, loss_scale, wanted = self._steps(shares, epoch)
        seconds = time.perf_counter() - start
        optimizer = fetch_weights(
            self.ranks, self.module, len(rows) * len(self.plan.micro_batch_sizes)
        )
        model = {name: tensor.clone() for name, tensor in self.module.state_dict().items()}
        validated = self.validation.figures(self.module) if self.validation else {}
        if self.own.scheduler is not None:
            optimizer["progress"] = self.ranks.end_epoch(validated.get("validation_loss"))
        if self.validation is not None:
            loss = validated["validation_loss"]
            self.best = self.validation.better(self.best, epoch, loss, model)
        rows[-1].update(validated)
        self.history += rows
        done = self._checkpoint(epoch, model, optimizer, loss_scale)
        figures = epoch_figures(rows)
        self.say(f"epoch {epoch + 1} of {self.until}: {in_words(figures)}, {seconds:.3g} s")
        if self.path is not None:
            done.save(self.path)
        # An epoch whose file was not written is trained again by the next call.
        self.ranks.held = TrainingState(done, self.until)
        record = EpochRecord(epoch, self.until, figures, self.module)
        return self.callbacks.after_epoch(record) or wanted

    def _steps(
        self, shares: Sequence[Examples], epoch: int
    ) -> tuple[list[Row], LossScale | None, bool]:
        """Take all steps of an epoch.

        Each step is a call of its own if callbacks want to know of it, or if batches are read here.

        Returns
        -------
        tuple
            The rows of the steps, the scale of the loss after them, and whether a callback wants
            training to end.
        """
        if self.stream is None and not self.callbacks.want_steps:
            count = len(self.examples) // self.job.batch_size
            reports = self._called(shares, epoch)
            every = [self.figures.row(reports, step, epoch, step) for step in range(count)]
            return every, reports[0].loss_scale, False
        rows: list[Row] = []
        wanted = False
        for step, batch in enumerate(self._batches(shares, epoch)):
            steps = Steps(step, step + 1, streamed=self.stream is not None)
            reports = self._called(batch, epoch, steps)
            rows.append(self.figures.row(reports, 0, epoch, step))
            wanted |= self.callbacks.after_step(StepRecord(epoch, step, dict(rows[-1])))
        return rows, reports[0].loss_scale, wanted

    def _batches(self, shares: Sequence[Examples], epoch: int) -> Iterator[Sequence[Examples]]:
        """For each step of an epoch, the examples as ranks read them."""
        if self.stream is None:
            yield from itertools.repeat(shares, len(self.examples) // self.job.batch_size)
            return
        for images, targets in self.stream.batches(epoch):
            yield self.ranks.share(self._examples_of_batch(images, targets))

    def _examples_of_batch(self, images: Any, targets: Any) -> Examples:
        """A batch of a stream, whose targets must be like those of the first one."""
        own = self.plan.loss
        if own is None:
            examples = examples_of(self.plan, images, targets)
            loss_name_for(examples, self.recipe.loss)
            return examples
        examples = examples_for_loss(self.plan, images, targets)
        found = loss_of(self.plan, examples, own.function, own.metrics, own.several).targets
        if found != own.targets:
            shapes = [[each.shape for each in kinds] for kinds in (found, own.targets)]
            raise ValueError(
                f"a batch has targets of shape {shapes[0]}, but the first one has {shapes[1]}"
            )
        return examples

    def _called(
        self, shares: Sequence[Examples], epoch: int, steps: Steps | None = None
    ) -> list[EpochReport]:
        """Let the ranks take steps; the peaks of their memory are noted."""
        reports = self.ranks.train_epoch(shares, epoch, *([] if steps is None else [steps]))
        self.peaks = tuple(
            max(peak, report.peak_memory_bytes)
            for peak, report in zip(self.peaks, reports, strict=True)
        )
        return reports

    def _checkpoint(
        self,
        epoch: int,
        model: Mapping[str, torch.Tensor],
        optimizer: dict[str, Any],
        loss_scale: LossScale | None,
    ) -> Checkpoint:
        """The state of the training after an epoch."""
        optimizer = {"name": self.recipe.optimizer, **optimizer}
        if loss_scale is not None:
            optimizer["scaling"] = asdict(loss_scale)
        return Checkpoint(
            model=model,
            optimizer=optimizer,
            epoch=epoch + 1,
            history=list(self.history),
            recipe=vars(self.recipe),
            data=self.data,
            best={} if self.best is None else vars(self.best),
        )
