"""The smallest and the largest number of a value, found piece by piece."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

CHUNK = 2**22
"""Numbers that are looked at together, so that no copy of a large tensor is made."""


@dataclass(frozen=True)
class ValueRange:
    """The range of numbers.

    Attributes
    ----------
    low, high
        The smallest and the largest number that is not NaN; infinite, the wrong way round, if there
        is none.
    nan
        Whether some numbers are NaN.

    Examples
    --------
    >>> ValueRange.of(torch.tensor([3, 1, 2])) | ValueRange.of(torch.tensor([7]))
    ValueRange(low=1, high=7, nan=False)
    """

    low: float = math.inf
    high: float = -math.inf
    nan: bool = False

    @classmethod
    def of(cls, tensor: torch.Tensor) -> ValueRange:
        """The range of a tensor's elements."""
        return cls.joined(map(cls._of_few, tensor.reshape(-1).split(CHUNK)))

    @classmethod
    def _of_few(cls, numbers: torch.Tensor) -> ValueRange:
        known = numbers
        if numbers.is_floating_point():
            known = numbers.float() if numbers.itemsize < 4 else numbers
            known = known[~known.isnan()]
        if not known.numel():
            return cls(nan=numbers.numel() > 0)
        low, high = known.aminmax()
        return cls(low.item(), high.item(), known.numel() < numbers.numel())

    @classmethod
    def joined(cls, ranges: Iterable[ValueRange]) -> ValueRange:
        """The range of all numbers of some ranges."""
        found = cls()
        for each in ranges:
            found |= each
        return found

    def __or__(self, other: ValueRange) -> ValueRange:
        return ValueRange(
            min(self.low, other.low), max(self.high, other.high), self.nan or other.nan
        )
