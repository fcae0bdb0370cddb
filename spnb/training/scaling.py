"""The scale of a loss in fp16, where gradients are too small for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Scaling:
    """What a loss is multiplied with, so that gradients in fp16 are neither zero nor infinite.

    A step with an infinite gradient is left out, and the next has half the factor; after many good
    ones in a row it is doubled (Micikevicius et al., *Mixed precision training*, 2018; the numbers
    are those of torch.amp.GradScaler).

    Attributes
    ----------
    factor
        Of the loss.
    good
        Steps in a row whose gradients were finite.

    Examples
    --------
    >>> Scaling(1024.0).after(finite=False)
    Scaling(factor=512.0, good=0)
    """

    factor: float = 2.0**16
    good: int = 0

    patience: ClassVar[int] = 2000

    def after(self, finite: bool) -> Scaling:
        """For the step after one whose gradients were finite, or not."""
        if not finite:
            return Scaling(self.factor / 2)
        if self.good + 1 == self.patience:
            return Scaling(self.factor * 2)
        return Scaling(self.factor, self.good + 1)
