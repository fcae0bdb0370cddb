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

from ...errors import WeightsError
from ...io.disk.replacing import replacing, writing
from ...job.checkpoint_io import read_file
from ...training.recipe import Recipe
from .checkpoint_fields import require_fields

MARK = {"format": "spnb"}
"""An entry of each file that training has written, so that no other program's is taken for one."""

NO_DIFFERENCE = {"schedule"}
"""Fields of a recipe that do not change the result."""


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
    data
        What it was trained on: ``batch_size``, the number of ``examples``, and a hash of their
        ``targets``.
    best
        Fields of the `spnb.driver.training.validation.Best` epoch, if there is a validation: its
        number ``epoch``, its ``loss``, a hash of the ``targets``, and its state dict ``model``.
    """

    model: Mapping[str, torch.Tensor]
    optimizer: Mapping[str, Any] = field(default_factory=dict)
    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, int] = field(default_factory=dict)
    best: Mapping[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write the file; if the process is killed meanwhile, the old file remains unchanged.

        Raises
        ------
        WriteError
            Naming the file and the cause.
        """
        state = {name: getattr(self, name) for name in self.__annotations__}
        if not self.best:  # without a validation the file has no such entry
            del state["best"]
        with replacing(path, f".{path.name}-new") as new, writing(path), new.open("wb") as file:
            torch.save(MARK | state, file)
            file.flush()
            os.fsync(file.fileno())

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        """Read a checkpoint to continue training from.

        Raises
        ------
        WeightsError
            If PyTorch cannot read the file, if a field is wrong, or if another program wrote it:
            training would overwrite it.
        """
        state = read_file(path)
        if not isinstance(state, Mapping) or not (state.items() >= MARK.items() or _old(state)):
            raise WeightsError(
                f"{path} is not a checkpoint that spnb wrote, and training would overwrite it: read"
                " it with weights, and name another file with checkpoint"
            )
        require_fields(state, path)
        return cls(**{name: state[name] for name in cls.__annotations__ if name in state})

    def differences(self, recipe: Recipe, data: Mapping[str, int], path: Path) -> list[str]:
        """In words, what differs in a training that goes on from this checkpoint.

        Parameters
        ----------
        recipe
            How training goes on.
        data
            What it goes on with: see the attribute.
        path
            The file of the checkpoint, for messages.

        Raises
        ------
        WeightsError
            If the optimizer differs, which cannot take the state of another one.
        """
        found = []
        for name, value in asdict(recipe).items():
            before = self.recipe.get(name, value)
            if before == value or name in NO_DIFFERENCE:
                continue
            if name == "optimizer":
                raise WeightsError(
                    f"{path} was trained with optimizer {before}, not {value}: give the same"
                    " optimizer, or begin a new training with weights and another checkpoint file"
                )
            found.append(f"{name} is {value}, and was {before}")
        for name, count in data.items():
            before = self.data.get(name, count)
            if before != count and name != "targets":
                found.append(f"{name.replace('_', ' ')}: {count}, and {before} before")
        same_number = self.data.get("examples") == data["examples"]
        if same_number and self.data.get("targets") != data["targets"]:
            found.append("the targets are others than before")
        return found


def _old(state: Mapping[str, Any]) -> bool:
    """Whether training wrote a file before its files had a mark."""
    optimizer = state.get("optimizer")
    is_own = isinstance(optimizer, Mapping) and optimizer.keys() <= {"name", "state", "scaling"}
    return is_own and Checkpoint.__annotations__.keys() - {"data", "best"} == state.keys()
