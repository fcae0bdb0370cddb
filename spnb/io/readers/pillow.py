"""Whole image files that Pillow decodes, and images that it resizes."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...display.cards import size_text
from ...ir.region import Region
from ..disk.files import NOT_DAMAGED, reading, refuse_without_memory
from ..layout import batched
from ..sources import ArraySource
from .bit_depth import decoded, lost_bits, refuse_frames
from .native_messages import messages_caught

if TYPE_CHECKING:
    from PIL import Image

_SAMPLE = {"I": 4, "F": 4, "I;16": 2, "I;16B": 2, "I;16L": 2}
"""Bytes of a sample by Pillow's name of the kind of image; one byte for all others."""

_PIXELS_PER_BYTE = {"raw": 8, "zip": 8 * 1032, "jpeg": 1024, "gif": 4096}
"""Most pixels in a byte of a file, by Pillow's name of the decoder: bits that are not compressed,
deflate's longest match, a block of 64 pixels in half a bit, LZW's longest code."""

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


def read_whole(
    path: str, name: str, channels: int, refuse: Callable[[tuple[int, ...]], None]
) -> ArraySource:
    """Decode a file with Pillow, as grey, RGB or (for 4 channels) RGBA.

    If Pillow would keep fewer bits of a sample than the file has, another decoder reads it.

    Parameters
    ----------
    path, name
        The file, and its name in messages.
    channels
        Channels that are wanted.
    refuse
        Called with the image's height and width before it is decoded; raises a ValueError if they
        do not fit.

    Raises
    ------
    ValueError
        If it cannot be read, has bits that no decoder here keeps, or holds a sequence of images; or
        if its header names more pixels than there is memory for, as that of a damaged file may.
    """
    from PIL import Image

    with _any_size(), reading(path):
        opened = Image.open(path)
    with opened as image:
        refuse((image.height, image.width))
        return ArraySource(_array_of(image, path, channels), name, path)


def _array_of(image: Image.Image, path: str, channels: int) -> np.ndarray:
    """Decode an open file, with the batch as its first axis."""
    with _any_size(), reading(path):
        refuse_frames(image)
        _refuse_damaged(image, path)
        _refuse_without_memory(image)
        if image.format == "FITS" and image.mode[0] == "I":
            raise ValueError("zero and scale of a FITS are not read: use TIFF or npy")
        bits = lost_bits(image, path)
        array = decoded(image, path, bits) if bits else _decoded(image)
    if array.ndim == 3 and array.shape[2] < 3:
        array = array[..., 0]  # grey; an alpha is dropped
    layout = "SS" if array.ndim == 2 else "SSA" if array.shape[2] == 4 != channels else "SSC"
    return batched(array, layout)


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


def _refuse_damaged(image: Image.Image, path: str) -> None:
    """Refuse a header that names more pixels than any file of its size can hold."""
    size = Path(path).stat().st_size
    decoders = [tile[0] for tile in getattr(image, "tile", [])]
    held = size * max((_PIXELS_PER_BYTE.get(name, math.inf) for name in decoders), default=math.inf)
    if image.height * image.width > held:
        raise ValueError(
            f"its header names {image.height}x{image.width} pixels, and its {size_text(size)}"
            " cannot hold so many: it is damaged"
        )


def _refuse_without_memory(image: Image.Image) -> None:
    """Refuse an image that has more bytes, decoded, than there is memory."""
    size = image.height * image.width * len(image.getbands()) * _SAMPLE.get(image.mode, 1)
    way_out = NOT_DAMAGED + "convert it to a tiled TIFF, which is read by region"
    refuse_without_memory(size, f"its {image.height}x{image.width} pixels", way_out)


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
