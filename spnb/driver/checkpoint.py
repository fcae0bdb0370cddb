"""A checkpoint: one file for the whole model, whatever the split it was made with.

Plain PyTorch reads it: ``model.load_state_dict(torch.load(file, weights_only=True)["model"])``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..errors import WeightsError
from ..job.checkpoint_io import read_file
from ..training.recipe import Recipe


@dataclass(frozen=True)
class Checkpoint:
    """A model in training, between two epochs.

    Attributes
    ----------
    model
        The network's state dict.
    optimizer
        Its name, and what it keeps of each parameter, by the parameter's name.
    epoch
        Epochs that are done.
    history
        Loss, accuracy and more of each step that was done.
    recipe
        How it was trained.
    """

    model: Mapping[str, torch.Tensor]
    optimizer: Mapping[str, Any] = field(default_factory=dict)
    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    recipe: Mapping[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write the file as a whole or not at all: a kill in the middle leaves the old one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}-new")  # one left by a kill is written over
        try:
            with new.open("wb") as file:
                torch.save({name: getattr(self, name) for name in self.__annotations__}, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise

    @classmethod
    def read(cls, path: Path) -> Checkpoint | None:
        """What training goes on from; None where the file has weights only.

        Raises
        ------
        WeightsError
            If it is no checkpoint.
        """
        state = read_file(path)
        if not isinstance(state, Mapping) or not {"model", "epoch", "optimizer"} <= set(state):
            return None
        return cls(**{name: state[name] for name in cls.__annotations__ if name in state})

    def check(self, recipe: Recipe, path: Path) -> None:
        """Refuse to go on with another recipe: the result would be neither one's nor the other's.

        Raises
        ------
        WeightsError
            Naming what differs, with both values.
        """
        for name, value in asdict(recipe).items():
            before = self.recipe.get(name, value)
            if before != value and name not in ("schedule", "recompute"):  # the same result
                raise WeightsError(
                    f"{path} was trained with {name} {before}, not {value}: give the same, or"
                    " another checkpoint to begin anew"
                )
