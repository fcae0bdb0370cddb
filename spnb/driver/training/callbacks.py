"""Calls functions of the user's own after each step and each epoch of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ...errors import OptionError


@dataclass(frozen=True)
class StepRecord:
    """What callbacks receive after a step.

    Attributes
    ----------
    epoch, step
        Its numbers, from 0.
    figures
        By name ``loss``, ``accuracy`` (NaN if targets are no classes), ``learning_rate``,
        ``seconds`` and the user's own metrics.
    """

    epoch: int
    step: int
    figures: Mapping[str, float]


@dataclass(frozen=True)
class EpochRecord:
    """What callbacks receive after an epoch.

    Attributes
    ----------
    epoch
        Its number, from 0.
    until
        The number of epochs at which training ends.
    figures
        Means over its steps by name, the sum of their ``seconds``, and ``validation_loss`` and
        other figures of the validation, if there is one.
    module
        The network with the weights after this epoch, in evaluation mode.  The next epoch
        overwrites them.
    """

    epoch: int
    until: int
    figures: Mapping[str, float]
    module: nn.Module = field(repr=False)


class Callbacks:
    """Functions of epochs, and objects with methods for steps and epochs.

    Parameters
    ----------
    given
        A function takes an `EpochRecord`.  An object has a method ``after_step`` that takes a
        `StepRecord`, a method ``after_epoch`` that takes an `EpochRecord`, or both.

    Raises
    ------
    OptionError
        If one of them is neither.

    Examples
    --------
    >>> seen = []
    >>> callbacks = Callbacks([lambda record: seen.append(record.figures["loss"])])
    >>> callbacks.after_epoch(EpochRecord(0, 2, {"loss": 0.5}, nn.Identity()))
    False
    >>> seen
    [0.5]
    """

    def __init__(self, given: Sequence[Any] = ()):
        if not isinstance(given, (list, tuple)):
            raise OptionError(
                f"callbacks is a {type(given).__name__}, but must be a list: give [callback]"
            )
        self._of_steps = [each.after_step for each in given if hasattr(each, "after_step")]
        self._of_epochs = []
        for each in given:
            if hasattr(each, "after_epoch"):
                self._of_epochs.append(each.after_epoch)
            elif not hasattr(each, "after_step"):
                if not callable(each):
                    raise OptionError(
                        f"a callback is a {type(each).__name__}: give a function of an epoch's"
                        " record, or an object with a method after_step or after_epoch"
                    )
                self._of_epochs.append(each)

    @property
    def want_steps(self) -> bool:
        """Whether one of them is called after each step."""
        return bool(self._of_steps)

    def after_step(self, record: StepRecord) -> bool:
        """Call those of steps; whether one of them returned True, to end training."""
        answers = [call(record) for call in self._of_steps]
        return any(answer is True for answer in answers)

    def after_epoch(self, record: EpochRecord) -> bool:
        """Call those of epochs; whether one of them returned True, to end training."""
        answers = [call(record) for call in self._of_epochs]
        return any(answer is True for answer in answers)
