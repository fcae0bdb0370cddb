"""What a user asks of a training, apart from the images and targets."""

from __future__ import annotations

import numbers
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
from .step_figures import COLUMNS
from .validation import Validation

MADE_BY_RANKS = {
    "optimizer": "functools.partial(torch.optim.SGD, lr=0.1)",
    "scheduler": "functools.partial(torch.optim.lr_scheduler.StepLR, step_size=3)",
}
"""What each rank makes for its own parameters, with an example of what makes it."""


def _said(given: Any) -> str:
    """A text as it is; of an object, its class."""
    return repr(given) if isinstance(given, str) else f"one {type(given).__name__}"


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

    def __post_init__(self) -> None:
        if isinstance(self.loss, type):
            raise OptionError(
                f"loss is the class {self.loss.__name__}: make one of it, {self.loss.__name__}()"
            )
        if not isinstance(self.metrics, Mapping):
            raise OptionError(
                f"metrics are functions by name, as {{'dice': dice}}, not a"
                f" {type(self.metrics).__name__}"
            )
        for name, metric in self.metrics.items():
            if not callable(metric):
                raise OptionError(f"the metric {name} is {metric!r}, but must be a function")
            if name in COLUMNS:
                raise OptionError(
                    f"a metric is named {name}, as a column of the history is: give it another name"
                )
        for what, example in MADE_BY_RANKS.items():
            given = getattr(self.own, what)
            if given is not None and not callable(given):
                raise OptionError(
                    f"{what} is {_said(given)}, but must be a class or a function, as {example}:"
                    " each rank makes one for its own parameters"
                )
        clip = self.own.clip
        if clip is not None and not isinstance(clip, numbers.Real):
            raise OptionError(f"clip is {clip!r}, but must be a number")


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
