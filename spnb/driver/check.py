"""A tiled output against the untiled one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..kernels.compat import pytree

TOLERANCES = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.float16: 2e-2,
    torch.bfloat16: 1e-1,
}
"""Largest error, as a share of the output's scale, that counts as equal.

In fp64 and fp32 only the order of a sum may differ.  In fp16 and bf16 that order decides the last
of 11 and 8 bits at every layer, tiled or not, and a deep network carries it on.
"""


@dataclass(frozen=True, repr=False)
class Check:
    """The tiled output against the untiled one; of several outputs, the one that differs most.

    Attributes
    ----------
    max_abs_error
        Largest absolute difference.
    output_scale
        Largest absolute value of the untiled output.
    tolerance
        Largest ``max_abs_error / output_scale`` that passes.
    where
        Index of the largest difference: which output, then the position in it.
    """

    max_abs_error: float
    output_scale: float
    tolerance: float
    where: tuple[int, ...]

    @property
    def passed(self) -> bool:
        """Whether the outputs are equal within the tolerance; not if either has a NaN."""
        return self.max_abs_error <= self.tolerance * self.output_scale

    def __repr__(self) -> str:
        verdict = "equal to the untiled run" if self.passed else "NOT equal to the untiled run"
        return (
            f"{verdict}: max error {self.max_abs_error:.2e}, output scale {self.output_scale:.2e},"
            f" tolerance {self.tolerance:g} of the scale"
        )


def compared(tiled: Any, untiled: Any, tolerance: float) -> Check:
    """Compare outputs as a network returns them; those without numbers are equal."""
    found = []
    pairs = zip(pytree.tree_leaves(tiled), pytree.tree_leaves(untiled), strict=True)
    for number, (a, b) in enumerate(pairs):
        if not isinstance(b, torch.Tensor) or not b.numel():
            continue
        error = (a.double() - b.double()).abs().nan_to_num(nan=float("inf"))
        error = error.masked_fill(a == b, 0.0)  # an infinity, say
        scale = float(b.double().abs().nan_to_num(posinf=0.0).max())
        at = torch.unravel_index(error.argmax(), error.shape)
        where = (number, *(int(k) for k in at))
        found.append(Check(float(error.max()), scale, tolerance, where))
    return max(found, key=lambda c: (not c.passed, c.max_abs_error / (c.output_scale or 1.0)))
