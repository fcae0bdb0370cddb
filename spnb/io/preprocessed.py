"""Images that are changed position by position as they are read, by each rank on its region."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cloudpickle
import numpy as np
from numpy.typing import DTypeLike

from ..ir.region import Region
from .arrays import as_numpy
from .changed import Changed
from .sources import read_as

Preprocess = Callable[[np.ndarray], Any]
"""Takes numbers ``(batch, channels, *spatial)`` of a region, and returns as many."""

PROBED = 8
"""Side of the region on which a function is tried."""


@dataclass(frozen=True, eq=False)
class Preprocessed(Changed):
    """Images that a function changes when they are read.

    Attributes
    ----------
    function
        What changes a region; it must see no neighbour of a position, since a tile has none.

    Raises
    ------
    ValueError
        If the function fails, changes the shape, or sees neighbours, on a corner of the image.

    Examples
    --------
    >>> from spnb.io.sources import ArraySource
    >>> source = Preprocessed(ArraySource(np.ones((1, 1, 4))), lambda x: 2 * x - 1)
    >>> source.read(Region(((0, 1), (1, 3))))
    array([[[1., 1.]]], dtype=float32)
    """

    function: Preprocess

    def __post_init__(self) -> None:
        sides = [min(PROBED, n) for n in self.shape[2:]]
        corner = Region(((0, 1), *((0, n) for n in sides)))
        whole = self.read(corner)
        for axis, side in enumerate(sides):
            if side == 1:
                continue
            part = self.read(corner.along(axis + 1, (1, side)))
            same = whole[(slice(None),) * (axis + 2) + (slice(1, None),)]
            if not np.allclose(part, same, rtol=1e-5, equal_nan=True):
                raise ValueError(
                    "preprocess gives other numbers for a part of the image than for the whole, so"
                    " tiles would differ: let it see single positions only (no mean, resizing or"
                    " filter of the image), or make it a part of the network"
                )

    def __reduce__(self) -> tuple[Callable[[bytes], Any], tuple[bytes]]:
        # By value, as a function of a notebook's cell is no file that a rank could import.
        return _received, (cloudpickle.dumps((self.source, self.function)),)

    def read_as(self, region: Region, dtype: DTypeLike) -> np.ndarray:
        given = np.array(read_as(self.source, region, dtype), order="C")  # ravel() is then a view
        shape = given.shape
        try:
            found = as_numpy(self.function(given))
        except Exception as error:
            raise ValueError(f"preprocess failed: {type(error).__name__}: {error}") from error
        if found.shape != shape:
            raise ValueError(
                f"preprocess made an array of shape {found.shape} of one of {shape}: return one of"
                " the same shape, (batch, channels, *spatial)"
            )
        return np.ascontiguousarray(found, dtype)


def _received(content: bytes) -> Preprocessed:
    """The images on a rank: the function was tried already."""
    found = object.__new__(Preprocessed)
    source, function = cloudpickle.loads(content)
    object.__setattr__(found, "source", source)
    object.__setattr__(found, "function", function)
    return found
