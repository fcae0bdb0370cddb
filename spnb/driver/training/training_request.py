"""What a user asks of a training, apart from the images and targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...capture.losses import LossFunction
from ...errors import OptionError
from ...io.datasets.examples import Examples
from ...io.sources import NOT_GIVEN
from ...training.own_optimizer import OwnOptimizer
from .batch_stream import is_stream
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
        Images and targets to evaluate after each epoch, as a pair, a Dataset or `Examples`; None
        for none.
    patience
        Epochs without a smaller validation loss after which training ends.
    callbacks
        Called after steps and epochs.
    """

    loss: str | LossFunction | None = None
    metrics: Mapping[str, LossFunction] = field(default_factory=dict)
    own: OwnOptimizer = field(default_factory=OwnOptimizer)
    validation: Any = None
    patience: int | None = None
    callbacks: Callbacks = field(default_factory=Callbacks)


def validation_for(ranks: EvaluatingRanks, request: Request) -> Validation | None:
    """The validation that is asked for, planned before any rank begins to train."""
    if request.validation is None:
        if request.patience is not None:
            raise OptionError("patience counts epochs of a validation: give validation too")
        return None
    if isinstance(request.validation, Examples) or is_stream(request.validation):
        images, targets = request.validation, NOT_GIVEN
    elif isinstance(request.validation, (tuple, list)) and len(request.validation) == 2:
        images, targets = request.validation
    else:
        raise OptionError(
            "validation must be a pair of images and targets, or a Dataset or DataLoader of such"
        )
    data = DataSetEvaluation(ranks, images, targets, request.loss, request.metrics)
    return Validation(data, request.patience)
