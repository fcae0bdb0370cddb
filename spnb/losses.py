"""Losses that tiles can take their share of: sums over positions, over the number of them all."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From a piece of an output and what is wanted there: the loss, summed over its positions."""


def cross_entropy(output: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Of class scores ``(batch, classes, *spatial)`` and class numbers ``(batch, *spatial)``."""
    return F.cross_entropy(output, wanted, reduction="sum")


def squares(output: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Squared differences, averaged over the channels of each position."""
    return F.mse_loss(output, wanted, reduction="sum") / _channels(output)


def differences(output: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Absolute differences, averaged over the channels of each position."""
    return F.l1_loss(output, wanted, reduction="sum") / _channels(output)


def _channels(output: torch.Tensor) -> int:
    return output.shape[1] if output.ndim > 1 else 1


LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "mse": squares, "l1": differences}
"""Losses by name; the mean over all positions of the batch is PyTorch's own."""
