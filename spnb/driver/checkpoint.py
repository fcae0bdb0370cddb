"""A checkpoint: one file for the whole model, for any split.

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

MARK = {"format": "spnb"}
"""An entry of each file that training has written, so that no other program's is taken for one."""


@dataclass(frozen=True)
class Checkpoint:
    """A model in training, between two epochs.

    Attributes
    ----------
    model
        The network's state dict.
    optimizer
        The optimizer's name, and its state of each parameter, by the parameter's name.
    epoch
        Number of epochs that are done.
    history
        Loss, accuracy and other figures of each step.
    recipe
        Fields of the `Recipe` that the model was trained with.
    """

    model: Mapping[str, torch.Tensor]
    optimizer: Mapping[str, Any] = field(default_factory=dict)
    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    recipe: Mapping[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write the file; if the process is killed meanwhile, the old file remains unchanged."""
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}-new")  # an earlier kill may have left this file
        try:
            with new.open("wb") as file:
                state = {name: getattr(self, name) for name in self.__annotations__}
                torch.save(MARK | state, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise

    @classmethod
    def read(cls, path: Path) -> Checkpoint | None:
        """Read a checkpoint to continue training from; None for a file of another program.

        Raises
        ------
        WeightsError
            If PyTorch cannot read the file.
        """
        state = read_file(path)
        if not isinstance(state, Mapping) or not (state.items() >= MARK.items() or _old(state)):
            return None
        return cls(**{name: state[name] for name in cls.__annotations__ if name in state})

    def check(self, recipe: Recipe, path: Path) -> None:
        """Refuse to continue with another recipe: the result would be that of neither recipe.

        Raises
        ------
        WeightsError
            Naming the first field that differs, with both values.
        """
        for name, value in asdict(recipe).items():
            before = self.recipe.get(name, value)
            # The schedule and recomputing do not change the result.
            if before != value and name not in ("schedule", "recompute"):
                raise WeightsError(
                    f"{path} was trained with {name} {before}, not {value}: give the same {name},"
                    " or another checkpoint file to begin a new training"
                )


def _old(state: Mapping[str, Any]) -> bool:
    """Whether training wrote a file before its files had a mark."""
    optimizer = state.get("optimizer")
    is_own = isinstance(optimizer, Mapping) and optimizer.keys() <= {"name", "state", "scaling"}
    return is_own and Checkpoint.__annotations__.keys() == state.keys()
