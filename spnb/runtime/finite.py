"""Finds the first value of a run that has NaN or infinite numbers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..kernels.nan_watch import floating

IMAGE = -1
"""Stands for the number of a call where the image itself is meant."""


@dataclass(frozen=True)
class NotFinite:
    """A value with numbers that are not finite.

    Attributes
    ----------
    call
        Number of the call that made it among those of its stage; `IMAGE` for the image.
    layer
        Its layer, in words.
    nan, infinite
        How many numbers are NaN, and how many infinite.
    numbers
        How many there are in all.
    """

    call: int
    layer: str
    nan: int
    infinite: int
    numbers: int


class _Search(threading.local):
    """The search of a thread's run; each rank of a process has its own thread."""

    found: list[NotFinite] | None = None


_search = _Search()


@contextmanager
def first_not_finite(searched: bool = True) -> Iterator[list[NotFinite]]:
    """Search the run of this thread; the list has the first value that was found, if any.

    Examples
    --------
    >>> import torch
    >>> with first_not_finite() as found:
    ...     see(0, "conv1", torch.ones(3))
    ...     see(1, "norm1", torch.tensor([1.0, float("nan")]))
    ...     see(2, "conv2", torch.full((3,), float("nan")))
    >>> found
    [NotFinite(call=1, layer='norm1', nan=1, infinite=0, numbers=2)]
    """
    found: list[NotFinite] = []
    _search.found = found if searched else None
    try:
        yield found
    finally:
        _search.found = None


def see(call: int, layer: str, value: Any) -> None:
    """Look through a value, a tensor or a tuple of them, if nothing was found before."""
    if _search.found is None or _search.found:
        return
    for tensor in floating(value):
        nan, infinite = int(tensor.isnan().sum()), int(tensor.isinf().sum())
        if nan or infinite:
            _search.found.append(NotFinite(call, layer, nan, infinite, tensor.numel()))
            return
