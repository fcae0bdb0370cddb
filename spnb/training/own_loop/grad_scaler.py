"""PyTorch's `GradScaler` over several ranks: all of them skip a step, or none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class GradScalerOverRanks(torch.amp.GradScaler):
    """A `torch.amp.GradScaler` that looks for infinite gradients on all ranks.

    With several stages, a rank has the gradients of its own stage.  PyTorch's scaler would skip the
    step on the ranks where one is infinite, and change the scale there alone.

    Parameters
    ----------
    agree
        Makes the gradients of an optimizer infinite on every rank if those of a rank are; every
        rank calls it.
    device
        Type of the device.
    **options
        As of `torch.amp.GradScaler`.
    """

    def __init__(self, agree: Callable[[torch.optim.Optimizer], None], device: str, **options: Any):
        super().__init__(device, **options)
        self._agree = agree

    def unscale_(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the gradients of an optimizer by the scale; every rank must call it."""
        if self.is_enabled():
            self._agree(optimizer)
        super().unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> float | None:
        """Step an optimizer, unless a gradient is infinite on a rank; every rank must call it."""
        if self.is_enabled():  # a fused optimizer looks for infinite gradients without `unscale_`
            self._agree(optimizer)
        return super().step(optimizer, *args, **kwargs)
