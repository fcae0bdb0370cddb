"""Floating types by the names of ``precision``."""

from __future__ import annotations

from collections.abc import Collection

import torch

from .parsing import INT8

DTYPES = {
    "fp32": torch.float32,
    "fp64": torch.float64,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    INT8: torch.float32,
}
"""By the names in `spnb.job.parsing.PRECISIONS`; in int8, images and results are in fp32."""


def widest(types: Collection[torch.dtype]) -> torch.dtype:
    """The widest of some floating types; of two with one width, ``torch.float16``.

    Examples
    --------
    >>> widest([torch.bfloat16, torch.float32])
    torch.float32
    """
    return max(types, key=lambda each: (each.itemsize, each == torch.float16))
