"""Losses that tiles can take their share of: sums over a piece, divided as for the whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

Loss = Callable[[torch.Tensor, torch.Tensor, Sequence[int]], torch.Tensor]
"""From a piece of an output, what is wanted there, and the shape of all of the output: its share.

The shares of all pieces add up to PyTorch's own loss of the whole batch, with the mean.
"""


def cross_entropy(output: torch.Tensor, wanted: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Of class scores ``(batch, classes, …)`` and class numbers ``(batch, …)``."""
    return F.cross_entropy(output, wanted, reduction="sum") / positions(shape)


def squares(output: torch.Tensor, wanted: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Squared differences."""
    return F.mse_loss(output, wanted, reduction="sum") / math.prod(shape)


def differences(output: torch.Tensor, wanted: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Absolute differences."""
    return F.l1_loss(output, wanted, reduction="sum") / math.prod(shape)


def positions(shape: Sequence[int]) -> int:
    """How many classes class scores of this shape tell.

    >>> positions((2, 10, 8, 8))
    128
    """
    return math.prod(shape) // shape[1]


LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "mse": squares, "l1": differences}
"""Losses by name; averaged over the whole batch, as PyTorch's own."""
