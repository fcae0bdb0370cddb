"""Whole image files that Pillow decodes, and images that it resizes."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from ..ir.region import Region
from .arrays import batched
from .files import reading
from .sources import ArraySource

_unlimited, _limit = 0, None
_counting = threading.Lock()


@contextmanager
def _any_size() -> Iterator[None]:
    """Lift Pillow's limit on pixels, in any thread: large images are the purpose here."""
    from PIL import Image

    global _unlimited, _limit
    with _counting:
        if _unlimited == 0:
            _limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        _unlimited += 1
    try:
        yield
    finally:
        with _counting:
            _unlimited -= 1
            if _unlimited == 0:
                Image.MAX_IMAGE_PIXELS = _limit


def read_whole(path: str, name: str, channels: int) -> ArraySource:
    """Decode a file with Pillow, as grey, RGB or (for 4 channels) RGBA."""
    from PIL import Image

    with _any_size(), reading(path), Image.open(path) as file:
        image: Image.Image = file
        if image.mode not in {"1", "L", "I", "F", "RGB", "RGBA"} and image.mode[:2] != "I;":
            image = image.convert("L" if image.mode in {"LA", "La"} else "RGB")
        array = np.asarray(image)
        if image.mode == "I" and array.min() >= 0 and array.max() < 2**16:
            array = array.astype(np.uint16)  # Pillow opens some 16-bit formats as 32-bit
    layout = "S" if array.ndim == 2 else "SCA" if array.shape[-1] == 4 != channels else "SC"
    return ArraySource(batched(array, layout), name)


def resized(source: ArraySource, size: tuple[int, ...]) -> np.ndarray:
    """Return an image ``(batch, channels, *size)``, resized with an antialiased linear filter."""
    from PIL import Image

    values = source.read(Region.whole((source.shape[0], *source.shape[2:])))
    for axis, n in enumerate(size, start=2):  # the filter is separable
        values = np.moveaxis(values, axis, 0)
        others = values.shape[1:]
        plane = Image.fromarray(np.ascontiguousarray(values).reshape(len(values), -1))
        plane = plane.resize((math.prod(others), n), Image.Resampling.BILINEAR)
        values = np.moveaxis(np.asarray(plane).reshape(n, *others), 0, axis)
    return values
