"""How a network is trained: its loss, its optimizer, and how their settings change by epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..errors import OptionError
from ..ir.schedule import SCHEDULES
from .losses import LOSSES, OWN

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
}
"""Optimizers by name; settings without an option have PyTorch's defaults."""


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes
    ----------
    loss
        A key of `spnb.training.losses.LOSSES`, or `spnb.training.losses.OWN`.
    optimizer
        A key of `OPTIMIZERS`.
    learning_rate, weight_decay
        Settings of the optimizer; the learning rate is that of epoch 0.
    learning_rate_decay
        Factor on the learning rate after each epoch.
    schedule
        A key of `spnb.ir.schedule.SCHEDULES`.
    seed
        Seed of dropout's random numbers.
    """

    loss: str
    optimizer: str
    learning_rate: float
    weight_decay: float
    learning_rate_decay: float
    schedule: str
    seed: int

    def __post_init__(self) -> None:
        for name, known in (
            ("loss", (*LOSSES, OWN)),
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
        ):
            if getattr(self, name) not in known:
                value = getattr(self, name)
                raise OptionError(f"unknown {name} {value!r}: use {', '.join(known)}")

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch.

        >>> round(Recipe("mse", "sgd", 0.1, 0.0, 0.5, "1f1b", 0).rate(2), 3)
        0.025
        """
        return self.learning_rate * self.learning_rate_decay**epoch
