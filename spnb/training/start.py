"""Where a rank begins to train: what it trains, how, and the state of its optimizer."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .loss_scale import LossScale
from .own_optimizer import OwnOptimizer
from .recipe import Recipe

OptimizerState = Mapping[str, Mapping[str, Any]]
"""The optimizer's state of each parameter, such as Adam's moments, by the parameter's name."""


@dataclass(frozen=True)
class TrainingStart:
    """All that a rank needs to begin or to resume a training, apart from weights and examples.

    Attributes
    ----------
    trained
        Names of the parameters that are trained.
    recipe
        Loss, optimizer, learning rates and schedule.
    optimizer_state
        The optimizer's state by parameter, at the end of an earlier epoch.
    num_workers
        Threads of each rank that read the next batch while one is computed.
    loss_scale
        The scale of the loss at the end of an earlier epoch, in fp16.
    own
        What the user gives in place of the recipe's optimizer and learning rates.
    progress
        The optimizer's groups and the scheduler at the end of an earlier epoch.
    validated
        Whether each epoch ends with a validation, whose loss a scheduler may need.
    """

    trained: tuple[str, ...]
    recipe: Recipe
    optimizer_state: OptimizerState = field(default_factory=dict)
    num_workers: int = 0
    loss_scale: LossScale | None = None
    own: OwnOptimizer = field(default_factory=OwnOptimizer)
    progress: Mapping[str, Any] = field(default_factory=dict)
    validated: bool = False

    def restricted_to(self, names: Collection[str]) -> TrainingStart:
        """The start of a rank that has only these weights.

        Parameters
        ----------
        names
            Names of its weights.

        Returns
        -------
        TrainingStart
            With the trained ones of them, in their order, and the optimizer's state of those.
        """
        trained = tuple(name for name in names if name in set(self.trained))
        known = self.optimizer_state
        state = {name: known[name] for name in trained if name in known}
        return replace(self, trained=trained, optimizer_state=state)
