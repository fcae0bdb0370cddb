"""Small pictures of sources of any size, of every n-th pixel."""

from __future__ import annotations

import math

import numpy as np

from ..ir.region import Span, length
from .sources import Repeated, Source
from .strided import strided


def thumbnail(
    source: Source, max_side: int = 1024, window: tuple[Span, Span] | None = None
) -> np.ndarray:
    """Return every n-th pixel of the first image of a source.

    A volume is shown by its middle slice, a signal by one row.  Values outside [0, 1] are
    rescaled.  NaN, as of nodata, is black.

    Parameters
    ----------
    source
        An image of any size.
    max_side
        Most pixels along each side.
    window
        Rows and columns to show, by default all; with a window, n may differ between axes.

    Returns
    -------
    numpy.ndarray
        ``(height, width, 3)`` in [0, 1].

    Examples
    --------
    >>> from spnb.io.sources import SyntheticSource
    >>> thumbnail(SyntheticSource((1, 1, 3000, 65536)), max_side=256).shape
    (12, 256, 3)
    """
    source = source.source if isinstance(source, Repeated) else source
    height, width = (1, *source.shape[2:])[-2:]
    rows, columns = window or ((0, height), (0, width))
    across, down = (math.ceil(length(span) / max_side) for span in (columns, rows))
    if window is None:
        across = down = max(across, down)
    picture = strided(source, (rows, columns), (down, across)).pixels
    picture = np.moveaxis(picture[[0, 1, 2] if len(picture) > 2 else [0, 0, 0]], 0, -1)
    finite = picture[np.isfinite(picture)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    if low < 0 or high > 1:
        picture = (picture - low) / max(high - low, np.finfo(np.float32).tiny)
    picture = np.nan_to_num(np.clip(picture, 0, 1), nan=0.0)
    return np.ascontiguousarray(picture)
