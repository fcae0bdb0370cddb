"""The file from which the ranks of a stage read their weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from .disk.replacing import writing


def write_weights(path: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Write the weights of a stage, by name."""
    with writing(path), path.open("wb") as file:
        torch.save(dict(weights), file)


def read_weights(path: Path) -> Mapping[str, torch.Tensor]:
    """A stage's weights, mapped from the file: the ranks of one host share the memory."""
    return torch.load(path, weights_only=True, mmap=True)
