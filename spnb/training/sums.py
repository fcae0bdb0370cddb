"""Sums of gradients in given memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch


class Sums:
    """Sums of gradients by the names of weights.

    The first gradient of a sum is copied: to add it to zeros would be two passes over the memory of
    all weights more in each step.

    Parameters
    ----------
    memory
        A tensor for each name; what it holds at first does not matter.

    Examples
    --------
    >>> sums = Sums({name: torch.empty(2) for name in ("weight", "bias")})
    >>> for _ in range(2):
    ...     sums.add("weight", torch.ones(2))
    >>> [sums[name].tolist() for name in ("weight", "bias")]
    [[2.0, 2.0], [0.0, 0.0]]
    """

    def __init__(self, memory: Mapping[str, torch.Tensor]):
        self._memory = memory
        self._without = set(memory)  # names without a gradient so far

    def add(self, name: str, gradient: torch.Tensor) -> None:
        """Add a gradient to the sum of this name."""
        if name in self._without:
            self._without.remove(name)
            self._memory[name].copy_(gradient)
        else:
            self._memory[name].add_(gradient)

    def complete(self, names: Iterable[str]) -> None:
        """Write zeros where a sum has no gradient."""
        for name in self._without.intersection(names):
            self._without.remove(name)
            self._memory[name].zero_()

    def __getitem__(self, name: str) -> torch.Tensor:
        """The sum of this name, in the memory that was given."""
        self.complete([name])
        return self._memory[name]
