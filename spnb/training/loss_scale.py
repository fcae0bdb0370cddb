"""The scale of a loss in fp16: the range of fp16 is too small for unscaled gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class LossScale:
    """A factor on the loss, so that gradients in fp16 are neither zero nor infinite.

    A step with an infinite gradient is left out, and the next has half the factor.  After many
    steps with finite gradients the factor is doubled (Micikevicius et al., *Mixed precision
    training*, 2018; the numbers are those of torch.amp.GradScaler).

    Attributes
    ----------
    factor
        Factor on the loss.
    good
        Number of steps in a row with finite gradients.

    Examples
    --------
    >>> LossScale(1024.0).after(finite=False)
    LossScale(factor=512.0, good=0)
    """

    factor: float = 2.0**16
    good: int = 0

    patience: ClassVar[int] = 2000

    def after(self, finite: bool) -> LossScale:
        """The scale of the next step, from whether the gradients of this one were finite."""
        if not finite:
            return LossScale(self.factor / 2)
        if self.good + 1 == self.patience:
            return LossScale(self.factor * 2)
        return LossScale(self.factor, self.good + 1)
