"""The validation of a training after each epoch: the best weights, and when to stop early."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from ...errors import OptionError
from ...ir.module_state import hash_of
from .evaluation import DataSetEvaluation


@dataclass(frozen=True)
class Best:
    """The epoch with the smallest validation loss so far.

    Attributes
    ----------
    epoch
        Its number, from 0.
    loss
        Its validation loss.
    targets
        A hash of the targets that it was validated with.
    model
        The network's state dict after it.
    """

    epoch: int
    loss: float
    targets: int
    model: Mapping[str, torch.Tensor] = field(repr=False)

    @classmethod
    def read(cls, state: Mapping[str, Any]) -> Best | None:
        """That of a checkpoint; None if there was no validation."""
        return cls(**state) if state else None


@dataclass(frozen=True)
class Validation:
    """A data set that a network is evaluated on after each epoch.

    Attributes
    ----------
    data
        The data set.
    patience
        Epochs without a smaller loss after which training ends; None for no early end.
    """

    data: DataSetEvaluation
    patience: int | None = None

    def __post_init__(self) -> None:
        if self.patience is not None and self.patience < 1:
            raise OptionError(f"patience is {self.patience}, but must be 1 or more epochs")

    @cached_property
    def targets_hash(self) -> int:
        """A hash of the targets, by which a checkpoint knows the data set."""
        return hash_of([torch.from_numpy(np.array(self.data.examples.known_targets))])

    def figures(self, module: nn.Module) -> dict[str, float]:
        """The figures of a network with the weights that it has now, as columns of a history."""
        return {f"validation_{name}": v for name, v in self.data.run(module).figures.items()}

    def better(
        self, best: Best | None, epoch: int, loss: float, model: Mapping[str, torch.Tensor]
    ) -> Best:
        """The better one of the best epoch so far and of this one.

        Parameters
        ----------
        best
            The best epoch so far.
        epoch, loss, model
            This one, its validation loss, and the network's state dict after it.
        """
        if best is None or loss < best.loss or (math.isnan(best.loss) and not math.isnan(loss)):
            return Best(epoch, loss, self.targets_hash, model)
        return best

    def is_over(self, best: Best | None, done: int) -> bool:
        """Whether training ends early.

        Parameters
        ----------
        best
            The best epoch so far.
        done
            Number of epochs that are done.
        """
        if self.patience is None or best is None:
            return False
        return done - 1 - best.epoch >= self.patience
