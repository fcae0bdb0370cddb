"""Compares a tiled output with the untiled one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from ..kernels.compat import pytree

TOLERANCES = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.float16: 2e-2,
    torch.bfloat16: 1e-1,
}
"""Largest error that counts as equal, as a share of the output's scale.

Tiled and untiled runs may add the terms of a sum in different orders, and so round differently.  In
fp16 (11 bits) and bf16 (8 bits) the last bit then differs after each layer, and the difference
grows with the depth of the network; hence their larger tolerances.
"""


@dataclass(frozen=True, repr=False)
class Check:
    """The difference between the tiled output and the untiled one.

    A network with several outputs has the figures of the output that differs most.

    Attributes
    ----------
    max_abs_error
        Largest absolute difference.
    output_scale
        Largest absolute value of the untiled output.
    tolerance
        Largest ``max_abs_error / output_scale`` that passes.
    where
        Number of the output, then the index of the largest difference in it.
    nan_count
        Positions that are NaN in both outputs, and count as equal.
    """

    max_abs_error: float
    output_scale: float
    tolerance: float
    where: tuple[int, ...]
    nan_count: int = 0

    @property
    def passed(self) -> bool:
        """Whether the outputs are equal within the tolerance, and NaN at the same positions."""
        return self.max_abs_error <= self.tolerance * self.output_scale

    def __repr__(self) -> str:
        verdict = "equal to the untiled run" if self.passed else "NOT equal to the untiled run"
        both_nan = f"; {self.nan_count:,} values are NaN in both" if self.nan_count else ""
        return (
            f"{verdict}: max error {self.max_abs_error:.2e}, output scale {self.output_scale:.2e},"
            f" tolerance {self.tolerance:g} of the scale{both_nan}"
        )


def compared(tiled: Any, untiled: Any, tolerance: float) -> Check:
    """Compare two outputs of a network, each a tensor or a structure of tensors.

    Parameters
    ----------
    tiled, untiled
        The outputs.  Leaves that are no tensors, and empty tensors, are not compared.
    tolerance
        Largest error that passes, as a share of the untiled output's scale.
    """
    pairs = zip(pytree.tree_leaves(tiled), pytree.tree_leaves(untiled), strict=True)
    checks = [
        _check(number, a, b, tolerance)
        for number, (a, b) in enumerate(pairs)
        if isinstance(b, torch.Tensor) and b.numel()
    ]
    if not checks:  # every output is empty
        return Check(0.0, 0.0, tolerance, ())
    worst = max(checks, key=lambda c: (not c.passed, c.max_abs_error / (c.output_scale or 1.0)))
    return replace(worst, nan_count=sum(check.nan_count for check in checks))


def _check(number: int, tiled: torch.Tensor, untiled: torch.Tensor, tolerance: float) -> Check:
    """Compare one output, of this number among all."""
    both_nan = tiled.isnan() & untiled.isnan()
    error = (tiled.double() - untiled.double()).abs().nan_to_num(nan=float("inf"))
    # Equal infinities have a difference of NaN.
    error = error.masked_fill((tiled == untiled) | both_nan, 0.0)
    scale = float(untiled.double().abs().nan_to_num(posinf=0.0).max())
    position = torch.unravel_index(error.argmax(), error.shape)
    where = (number, *(int(k) for k in position))
    return Check(float(error.max()), scale, tolerance, where, int(both_nan.sum()))
