"""Whole image files that Pillow decodes, and images that it resizes."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from ..ir.region import Region
from .bit_depth import decoded, lost_bits, refuse_frames
from .files import reading
from .layout import batched
from .native_messages import messages_caught
from .sources import ArraySource

if TYPE_CHECKING:
    from PIL import Image

_unlimited, _limit = 0, None
_counting = threading.Lock()


@contextmanager
def _any_size() -> Iterator[None]:
    """Lift Pillow's limit on the number of pixels, in any thread."""
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
    """Decode a file with Pillow, as grey, RGB or (for 4 channels) RGBA.

    If Pillow would keep fewer bits of a sample than the file has, another decoder reads it.

    Raises
    ------
    ValueError
        If it cannot be read, has bits that no decoder here keeps, or holds a sequence of images.
    """
    from PIL import Image

    with _any_size(), reading(path), Image.open(path) as image:
        refuse_frames(image)
        if image.format == "FITS" and image.mode[0] == "I":
            raise ValueError("zero and scale of a FITS are not read: use TIFF or npy")
        bits = lost_bits(image, path)
        try:
            array = decoded(image, path, bits) if bits else _decoded(image)
        except MemoryError:  # a damaged file may say any size
            size = "x".join(map(str, image.size[::-1]))
            raise ValueError(f"its {size} pixels do not fit into the memory") from None
    if array.ndim == 3 and array.shape[2] < 3:
        array = array[..., 0]  # grey; an alpha is dropped
    layout = "SS" if array.ndim == 2 else "SSA" if array.shape[2] == 4 != channels else "SSC"
    return ArraySource(batched(array, layout), name)


def _decoded(image: Image.Image) -> np.ndarray:
    """Return the pixels of a file; what libtiff prints about a damaged one is the error's reason.

    Raises
    ------
    ValueError
        If libtiff cannot decode the file.
    """
    if image.format != "TIFF":
        return _loaded(image)
    printed: list[str] = []
    try:
        with messages_caught() as printed:
            return _loaded(image)
    except OSError as error:
        reason = printed[0].removeprefix("tempfile.tif: ") if printed else str(error)
        raise ValueError(reason) from error


def _loaded(image: Image.Image) -> np.ndarray:
    """Return the pixels that Pillow decodes, as grey, RGB or RGBA."""
    if image.mode not in {"1", "L", "I", "F", "RGB", "RGBA"} and image.mode[:2] != "I;":
        image = image.convert("L" if image.mode in {"LA", "La"} else "RGB")
    array = np.asarray(image)
    # Pillow opens a grey PPM of up to 16 bits as one of 32 bits, scaled to 65535.
    return array.astype(np.uint16) if (image.format, image.mode) == ("PPM", "I") else array


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
