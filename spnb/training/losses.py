"""Losses as sums of shares: a sum over a piece, divided by the count of the whole output."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

Loss = Callable[[torch.Tensor, torch.Tensor, Sequence[int]], torch.Tensor]
"""A loss: gives a piece's share from the piece, its target, and the shape of the whole output.

The shares of all pieces add up to PyTorch's own loss of the whole batch, with ``reduction="mean"``.
"""


def cross_entropy(output: torch.Tensor, wanted: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Cross entropy of class scores ``(batch, classes, …)`` and class numbers ``(batch, …)``."""
    return F.cross_entropy(output, wanted, reduction="sum") / positions(shape)


def squares(output: torch.Tensor, wanted: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Squared differences."""
    return F.mse_loss(output, wanted, reduction="sum") / math.prod(shape)


def differences(output: torch.Tensor, wanted: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Absolute differences."""
    return F.l1_loss(output, wanted, reduction="sum") / math.prod(shape)


def positions(shape: Sequence[int]) -> int:
    """Number of positions that have a class, in class scores of shape ``(batch, classes, …)``.

    >>> positions((2, 10, 8, 8))
    128
    """
    return math.prod(shape) // shape[1]


OWN = "own"
"""Name of a loss that the plan computes: see `spnb.capture.losses`."""

LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "mse": squares, "l1": differences}
"""Losses by name; each is a mean over the whole batch, as in PyTorch."""
