"""What a user asks of a training, apart from the images and targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..capture.losses import LossFunction
from ..errors import OptionError
from ..training.own_optimizer import OwnOptimizer
from .callbacks import Callbacks
from .evaluation import DataSetEvaluation, EvaluatingRanks
from .validation import Validation


@dataclass(frozen=True)
class Request:
    """What a user asks of a training, apart from the images and targets.

    Attributes
    ----------
    loss, metrics
        The loss, and functions that are metrics.
    own
        An optimizer, a scheduler and a limit on gradients of the user's own.
    validation
        Images and targets to evaluate after each epoch; None for none.
    patience
        Epochs without a smaller validation loss after which training ends.
    callbacks
        Called after steps and epochs.
    """

    loss: str | LossFunction | None = None
    metrics: Mapping[str, LossFunction] = field(default_factory=dict)
    own: OwnOptimizer = field(default_factory=OwnOptimizer)
    validation: tuple[Any, Any] | None = None
    patience: int | None = None
    callbacks: Callbacks = field(default_factory=Callbacks)


def validation_for(ranks: EvaluatingRanks, request: Request) -> Validation | None:
    """The validation that is asked for, planned before any rank begins to train."""
    if request.validation is None:
        if request.patience is not None:
            raise OptionError("patience counts epochs of a validation: give validation too")
        return None
    if not isinstance(request.validation, (tuple, list)) or len(request.validation) != 2:
        raise OptionError("validation must be a pair of images and targets")
    images, targets = request.validation
    data = DataSetEvaluation(ranks, images, targets, request.loss, request.metrics)
    return Validation(data, request.patience)
