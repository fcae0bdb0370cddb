"""Decoders that keep all bits of samples, for files of which Pillow keeps fewer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

FRAMES = {"GIF", "WEBP", "PNG", "AVIF", "DCX", "FLI", "TIFF"}
"""Formats with a sequence of images of equal rank; elsewhere, further ones are previews."""


def lost_bits(image: Image.Image, path: str) -> int:
    """Return the bits of a sample in a file, if Pillow would keep fewer; else 0.

    Parameters
    ----------
    image
        The opened file, not loaded yet.
    path
        The file.
    """
    if image.format == "JPEG2000":
        bits = _jpeg2000_bits(Path(path).read_bytes())
        return bits if bits > (16 if image.mode[:1] == "I" else 8) else 0
    if image.format == "AVIF":
        return _avif_bits(Path(path).read_bytes())
    if image.mode[:1] in {"I", "F"}:
        return 0
    for tile in getattr(image, "tile", []):
        arguments = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        if tile[0] == "SGI16" or any(";16" in a for a in arguments if isinstance(a, str)):
            return 16
        largest = arguments[-1] if tile[0] in ("ppm", "ppm_plain") else 0
        if isinstance(largest, int) and largest > 255:
            return largest.bit_length()
        if tile[0] == "bcn" and arguments[0] == 6:  # BC6H holds floats
            return 16
    return 0


def _jpeg2000_bits(data: bytes) -> int:
    """Return the most bits of a component, as the codestream's SIZ segment says."""
    start = data.find(b"\xff\x4f\xff\x51")  # start of codestream, SIZ
    if start < 0:
        return 0
    count = int.from_bytes(data[start + 40 : start + 42], "big")
    return max((byte & 127) + 1 for byte in data[start + 42 : start + 42 + 3 * count : 3])


def _avif_bits(data: bytes) -> int:
    """Return 10 or 12 if the codec's configuration says that samples have more than 8 bits."""
    start = data.find(b"av1C")
    flags = data[start + 6] if 0 <= start < len(data) - 6 else 0
    if not flags & 0x40:
        return 0
    return 12 if flags & 0x20 else 10


def _png(data: bytes, bits: int) -> np.ndarray:
    from imagecodecs import png_decode

    return png_decode(data)


def _jpeg2000(data: bytes, bits: int) -> np.ndarray:
    from imagecodecs import jpeg2k_decode

    values = jpeg2k_decode(data)
    if values.dtype.kind != "u" or bits > 16:
        raise ValueError(f"samples of {bits} bits and type {values.dtype} are not read")
    return np.left_shift(values, 16 - bits)  # to the whole range, as Pillow does with grey ones


DECODERS: dict[str, Callable[[bytes, int], np.ndarray]] = {"PNG": _png, "JPEG2000": _jpeg2000}
"""For a format's name the function that decodes all bits, to 16-bit samples."""


def decoded(image: Image.Image, path: str, bits: int) -> np.ndarray:
    """Return all bits of a file's samples, as ``(rows, columns)`` or with channels behind.

    Raises
    ------
    ValueError
        If there is no decoder here that keeps them.
    """
    decode = DECODERS.get(str(image.format))
    if decode is None:
        raise ValueError(
            f"its samples have {bits} bits, and Pillow keeps 8 of them in a file of {image.format}:"
            " save it as TIFF, PNG or npy"
        )
    return decode(Path(path).read_bytes(), bits)


def refuse_frames(image: Image.Image) -> None:
    """Refuse a file with a sequence of images: only the first would be read."""
    count = getattr(image, "n_frames", 1)
    if image.format in FRAMES and count > 1:
        raise ValueError(
            f"it holds {count} images: save the one that is meant as a file of its own, or all as"
            " pages of a TIFF"
        )
