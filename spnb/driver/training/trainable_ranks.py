"""The calls of a training to the ranks of a session."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from ...engine.service import RankWeights
from ...io.datasets.examples import Examples
from ...ir import weights
from ...training.epoch import EpochReport, Steps
from ...training.recipe import Recipe
from ...training.start import TrainingStart
from .batch_stream import BatchStream
from .evaluation import EvaluatingRanks
from .training_state import TrainingState, resumed


class TrainableRanks(EvaluatingRanks, Protocol):
    """The calls of the training loop to ranks with a loaded plan.

    Attributes
    ----------
    held
        The state of the training since the plan was loaded, if there was one.
    """

    held: TrainingState | None

    def begin_training(self, module: nn.Module, start: TrainingStart) -> None:
        """Make every rank ready to train a network, from the weights that it has."""

    def train_epoch(
        self, shares: Sequence[Examples], epoch: int, steps: Steps | None = None
    ) -> list[EpochReport]:
        """Train on all examples once, or take some steps of the epoch; the report of each rank."""

    def end_epoch(self, validation_loss: float | None) -> dict[str, Any]:
        """Step the scheduler of every rank; the progress of the optimizers."""

    def weights_of(self, ranks: Collection[int]) -> list[RankWeights]:
        """The weights of some ranks, and their optimizers' states."""


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


def begun_training(
    ranks: TrainableRanks,
    examples: Examples,
    stream: BatchStream | None,
    recipe: Recipe,
    say: Callable[[str], None],
) -> TrainingState:
    """The state to begin with: what the ranks hold of a training, or that of `resumed`.

    Parameters
    ----------
    ranks
        The ranks.
    examples, stream
        Images and targets; of a stream, those of its first batch.
    recipe
        How the network is trained.
    say
        Prints a line.
    """
    epochs = ranks.plan.job.num_epochs
    if ranks.held is None:
        begun = resumed(ranks.plan, examples, recipe, say, stream)
        return TrainingState(begun, max(epochs, begun.epoch))
    done, until = ranks.held.checkpoint.epoch, ranks.held.until
    until = until if done < until else done + epochs
    say(f"training goes on with what was trained: {done} of {until} epochs are done")
    return TrainingState(ranks.held.checkpoint, until)
