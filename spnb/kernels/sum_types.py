"""The type in which many numbers are added up."""

from __future__ import annotations

import torch


def precise(dtype: torch.dtype) -> torch.dtype:
    """The type of a sum: fp32 for half precision, in which sums would overflow.

    >>> precise(torch.bfloat16), precise(torch.float64)
    (torch.float32, torch.float64)
    """
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
