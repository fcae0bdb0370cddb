"""The types in which numbers of an output are stored, for each format.

An npy and a zarr keep the network's type.  Programs that show a TIFF or a PNG seldom read integers
of 64 bits, so classes become unsigned integers of 8 or 16 bits there; a PNG has no floats.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ...ir.value_range import ValueRange

TIFF = (".tif", ".tiff")

SMALL = (torch.bool, torch.uint8, torch.uint16)
"""Types that a TIFF and a PNG hold as they are."""

OVERSHOOT = 0.5
"""How far colours in [0, 1] may lie outside, which sharpening networks do; scores lie farther."""


def depends_on_numbers(path: Path, dtype: torch.dtype) -> bool:
    """Whether the type of a file's elements depends on the numbers of the output.

    >>> [depends_on_numbers(Path(f"mask.{suffix}"), torch.int64) for suffix in ("tif", "npy")]
    [True, False]
    """
    if path.suffix == ".png":
        return dtype not in SMALL
    return path.suffix in TIFF and dtype not in SMALL and not dtype.is_floating_point


def plain_type(path: Path, dtype: torch.dtype) -> np.dtype:
    """The type of a file's elements, where it does not depend on the numbers."""
    if dtype == torch.bfloat16:  # which no format has
        return np.dtype(np.float32)
    if dtype == torch.bool and path.suffix in TIFF:
        return np.dtype(np.uint8)  # a TIFF of single bits cannot be mapped
    return torch.empty(0, dtype=dtype).numpy().dtype


def smallest_type(path: Path, dtype: torch.dtype, numbers: ValueRange) -> np.dtype:
    """The smallest type that holds all numbers of an output.

    Parameters
    ----------
    path
        The file.
    dtype
        Type of the output.
    numbers
        The range of its numbers.

    Raises
    ------
    ValueError
        If a PNG cannot hold them.

    Examples
    --------
    >>> smallest_type(Path("mask.png"), torch.int64, ValueRange(0, 20))
    dtype('uint8')
    """
    low, high = numbers.low, numbers.high
    if path.suffix == ".png" and dtype.is_floating_point:
        if low < -OVERSHOOT or high > 1 + OVERSHOOT:
            raise ValueError(
                f"cannot save as {path.name}: its numbers go from {low:.3g} to {high:.3g}, but"
                " colours lie in [0, 1]: save it as .tif, .npy or .zarr, or end the network with"
                " what makes colours (torch.sigmoid) or classes (x > 0, x.argmax(1)) of them"
            )
        return np.dtype(np.uint8)
    for found in (np.uint8, np.uint16):
        if low >= 0 and high <= np.iinfo(found).max:
            return np.dtype(found)
    if path.suffix == ".png":
        raise ValueError(
            f"cannot save as {path.name}: its numbers go from {low} to {high}, and a PNG holds 0 to"
            " 65535: save it as .tif, .npy or .zarr"
        )
    return plain_type(path, dtype)


def changed_colours(path: Path, dtype: torch.dtype, numbers: ValueRange) -> str:
    """A line about the colours that a PNG does not hold; empty if it holds all."""
    if path.suffix != ".png" or not dtype.is_floating_point:
        return ""
    changes = []
    if numbers.low < 0 or numbers.high > 1:
        changes.append(
            f"colours go from {numbers.low:.3g} to {numbers.high:.3g}: those outside of [0, 1] are"
            " cut off"
        )
    if numbers.nan:
        changes.append("NaN becomes 0")
    return f"{path.name}: {', and '.join(changes)}" if changes else ""


def samples(piece: torch.Tensor, dtype: np.dtype) -> torch.Tensor:
    """Return numbers in the type of a file's elements; colours in [0, 1] become 0 to 255.

    >>> samples(torch.tensor([0.0, 0.5, 1.2]), np.dtype(np.uint8))
    tensor([  0, 128, 255], dtype=torch.uint8)
    """
    if dtype == np.uint8 and piece.is_floating_point():
        piece = piece.float().nan_to_num(0.0).clamp(0, 1).mul(255).round()
    return piece.to(torch.from_numpy(np.empty(0, dtype)).dtype)
