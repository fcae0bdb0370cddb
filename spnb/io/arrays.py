"""Arrays as images: their types and shapes are checked and converted."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..ir.region import Region

CACHED_BYTES = 2**21
"""Bytes of an image that are copied while they are in a cache."""


def index_in(shape: tuple[int, ...], region: Region) -> tuple[slice, ...]:
    """Return the slices of a region over ``(batch, *spatial)`` in an array of a source's shape."""
    batch, *box = region.slices_in(Region.whole((shape[0], *shape[2:])))
    return (batch, slice(0, shape[1]), *box)


def floats(
    values: np.ndarray,
    largest: int | None = None,
    dtype: DTypeLike = np.float32,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Return a copy of floats; unsigned integers are scaled to [0, 1].

    Parameters
    ----------
    values
        An array of real numbers, ``(batch, channels, *spatial)``.
    largest
        The unsigned integer that becomes 1; by default the largest one of the type.
    dtype
        Type of the copy.
    out
        Memory for the copy, if there is some; by default it is of `empty_image`.
    """
    if out is None:
        out = empty_image(values.shape, dtype)
    if values.ndim < 3 or values.strides[1] == min(values.strides):
        out[...] = values
    else:  # planes: each is strewn over the pixels, of so many rows at a time that a cache has
        step = max(1, CACHED_BYTES // max(1, out[:, :, :1].nbytes))
        for start in range(0, values.shape[2], step):
            rows = slice(start, start + step)
            for channel in range(values.shape[1]):
                out[:, channel, rows] = values[:, channel, rows]
    if values.dtype.kind == "u":
        out /= out.dtype.type(largest or np.iinfo(values.dtype).max)
    return out


def empty_image(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """Memory for images ``(batch, channels, *spatial)``: the channels are last, as ranks need them.

    >>> empty_image((1, 3, 5, 7), np.float32).strides
    (420, 4, 84, 12)
    """
    if len(shape) < 4:  # no images: a signal, or numbers
        return np.empty(shape, dtype)
    batch, channels, *space = shape
    return np.moveaxis(np.empty((batch, *space, channels), dtype), -1, 1)


def checked(array: np.ndarray, name: str) -> tuple[int, ...]:
    """Return the shape of an array that is a batch of images.

    Raises
    ------
    ValueError
        If no image has its type or its number of axes, or if it is empty.
    """
    if array.dtype.kind not in "buif":
        raise ValueError(f"{name} is of type {array.dtype}: an image holds real numbers")
    if not 3 <= array.ndim <= 5:
        raise ValueError(f"{name} has shape {array.shape}, not (batch, channels, 1 to 3 spatial)")
    if 0 in array.shape:
        raise ValueError(f"{name} is empty: its shape is {array.shape}")
    return array.shape


def is_in_memory(image: Any) -> bool:
    """Whether an image is an array of numpy or a tensor of torch."""
    return isinstance(image, np.ndarray) or hasattr(image, "detach")


def as_numpy(image: Any) -> np.ndarray:
    """Return an array, a torch tensor, or what numpy makes an array of, as a numpy array.

    Raises
    ------
    ValueError
        If it is neither, or a single number, or a tensor without values or of few of them.
    """
    if hasattr(image, "detach"):
        if image.is_meta or "strided" not in str(image.layout):
            kind = "on the device meta" if image.is_meta else f"of the layout {image.layout}"
            raise ValueError(f"the image is a tensor {kind}: give one on the CPU, made dense")
        image = image.detach().cpu()
        image = (image.float() if "bfloat16" in str(image.dtype) else image).numpy()
    if hasattr(image, "__array__") or hasattr(image, "__array_interface__"):
        image = np.asarray(image)
    if isinstance(image, np.ndarray) and image.ndim == 0:
        image = image[()]  # a single number, not an image
    if not isinstance(image, np.ndarray):
        raise ValueError(f"cannot open a {type(image).__name__}: give an array, a path or a sample")
    return image
