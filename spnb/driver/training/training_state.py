"""Where a training begins: its recipe, and the weights and the optimizer's state to begin with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ...errors import OptionError
from ...io.datasets.examples import Examples
from ...ir.module_state import hash_of
from ...job.job import Job
from ...job.job_plan import JobPlan
from ...training.losses import LOSSES
from ...training.own_optimizer import OwnOptimizer
from ...training.recipe import Recipe
from .batch_stream import BatchStream
from .checkpoint import Checkpoint


@dataclass(frozen=True)
class TrainingState:
    """What ranks hold of a training: its state after the last whole epoch, and its aim.

    Attributes
    ----------
    checkpoint
        Weights, optimizer and history.
    until
        Number of epochs at which the training ends; more than are done if it was interrupted.
    """

    checkpoint: Checkpoint
    until: int


def recipe_for(plan: JobPlan, examples: Examples, loss: str | None = None) -> Recipe:
    """How a plan is trained on examples.

    Parameters
    ----------
    plan
        The plan.
    examples
        Images and targets.
    loss
        Name of a loss; by default cross entropy for class numbers, and squares for others.

    Raises
    ------
    ValueError
        If the loss does not go with the targets.
    """
    return plan.job.recipe(loss_name_for(examples, loss))


def loss_name_for(examples: Examples, loss: str | None = None) -> str:
    """The name of the loss of examples: the given one, or the usual one for their targets.

    Raises
    ------
    OptionError
        If the loss is unknown.
    ValueError
        If the loss does not go with the targets.
    """
    if loss is not None and loss not in LOSSES:
        raise OptionError(f"unknown loss {loss!r}: use {', '.join(LOSSES)}, or a function")
    integers = examples.known_targets.dtype.kind == "i"
    loss = loss or ("cross_entropy" if integers else "mse")
    if integers != (loss == "cross_entropy"):
        kind = "class numbers" if integers else "numbers like the output"
        raise ValueError(f"the loss {loss} does not go with targets that are {kind}")
    return loss


def refuse_useless(job: Job, own: OwnOptimizer) -> None:
    """Refuse options of the job that have no effect beside an optimizer of the user's own.

    Raises
    ------
    ValueError
        Naming the option.
    """
    useless = {
        "optimizer": ("optimizer", "learning_rate", "weight_decay", "learning_rate_decay"),
        "scheduler": ("learning_rate_decay",),
    }
    for name, options in useless.items():
        for option in options:
            if getattr(own, name) is not None and option in job.given():
                raise ValueError(
                    f"{option} of the job has no effect beside the {name} that train is given:"
                    " leave one of them out"
                )
    if own.clip is not None and not own.clip > 0:
        raise ValueError(f"clip is {own.clip}, but must be above 0")


def data_of(plan: JobPlan, examples: Examples, stream: BatchStream | None = None) -> dict[str, int]:
    """What tells one data set, and its batches, from another; it is kept in a checkpoint.

    Parameters
    ----------
    plan
        The plan.
    examples
        Images and targets; of a stream, those of its first batch.
    stream
        Where batches are from, whose targets are not all known.
    """
    if stream is not None:
        return {"batch_size": plan.job.batch_size, "examples": stream.length, "targets": 0}
    targets = torch.from_numpy(np.array(examples.known_targets))
    count = len(examples)
    return {"batch_size": plan.job.batch_size, "examples": count, "targets": hash_of([targets])}


def resumed(
    plan: JobPlan,
    examples: Examples,
    recipe: Recipe,
    say: Callable[[str], None] = lambda text: None,
    stream: BatchStream | None = None,
) -> Checkpoint:
    """The state to begin with: that of the job's checkpoint file, or the job's weights.

    Parameters
    ----------
    plan
        The plan.
    examples
        What it is trained on.
    recipe
        How it is trained.
    say
        Prints a line: where the state is from.
    stream
        Where batches are from, if the examples are not all known.

    Raises
    ------
    WeightsError
        If the file was not written by a training, or by one that cannot be continued.
    """
    path = None if plan.job.checkpoint is None else Path(plan.job.checkpoint)
    if path is None or not path.exists():
        say(f"training begins with the weights of {plan.weights_name}")
        return Checkpoint(plan.module.state_dict())
    begun, total = Checkpoint.read(path), plan.job.num_epochs
    changes = begun.differences(recipe, data_of(plan, examples, stream), path)
    enough = "" if begun.epoch < total else ": give a larger num_epochs to go on"
    say(f"training continues from {path.name}: {begun.epoch} of {total} epochs are done{enough}")
    for change in changes:
        say(f"{path.name}: {change}")
    return begun
