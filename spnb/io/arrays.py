"""Arrays as images: their types and shapes are checked and converted."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..ir.region import Region


def index_in(shape: tuple[int, ...], region: Region) -> tuple[slice, ...]:
    """Return the slices of a region over ``(batch, *spatial)`` in an array of a source's shape."""
    batch, *box = region.slices_in(Region.whole((shape[0], *shape[2:])))
    return (batch, slice(0, shape[1]), *box)


def floats(
    values: np.ndarray, largest: int | None = None, dtype: DTypeLike = np.float32
) -> np.ndarray:
    """Return a contiguous copy of floats; unsigned integers are scaled to [0, 1].

    Parameters
    ----------
    values
        An array of real numbers.
    largest
        The unsigned integer that becomes 1; by default the largest one of the type.
    dtype
        Type of the copy.
    """
    out = np.array(values, dtype, order="C")
    if values.dtype.kind == "u":
        out /= out.dtype.type(largest or np.iinfo(values.dtype).max)
    return out


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
        If it is neither, or a single number.
    """
    if hasattr(image, "detach"):
        image = image.detach().cpu()
        image = (image.float() if "bfloat16" in str(image.dtype) else image).numpy()
    if hasattr(image, "__array__") or hasattr(image, "__array_interface__"):
        image = np.asarray(image)
    if isinstance(image, np.ndarray) and image.ndim == 0:
        image = image[()]  # a single number, not an image
    if not isinstance(image, np.ndarray):
        raise ValueError(f"cannot open a {type(image).__name__}: give an array, a path or a sample")
    return image
