"""Outputs as PNG files: which of them are pictures, and how their numbers become samples.

Ranks write a picture's numbers into a file that is mapped; then one process compresses it.  A
grey picture is compressed from the mapped file, so it is never held in memory.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch

from ...errors import OptionError
from ...ir.axes import Axes
from ..disk.files import mapped, refuse_without_memory

MAX_SIDE = 2**31 - 1
"""Most rows or columns of a PNG."""

OTHERS = "save it as .tif, .npy or .zarr"
"""The way out for an output that is no picture."""


BYTES_IN_MEMORY = 16
"""Bytes of memory for each pixel of a coloured picture, or of one of booleans, at most."""


def refuse_no_picture(path: Path, axes: Axes, dtype: torch.dtype) -> None:
    """Refuse an output that is not one grey or coloured image of rows and columns.

    Parameters
    ----------
    path
        The file, for messages.
    axes
        Axes of the output.
    dtype
        Type of its elements.

    Raises
    ------
    OptionError
        With the shape, and what to do.
    """
    letters, of = _letters(axes), f"cannot save as {path.name}: the output {axes.shape}"
    places = letters.replace("C", "").removeprefix("B")
    if axes.rank != 3 or not axes.plain or places != "SS" or not axes.present & {1, 2}:
        raise OptionError(f"{of} is no image of rows and columns: {OTHERS}")
    if axes.extent[0] > 1:
        raise OptionError(f"{of} has {axes.extent[0]} images, and a PNG holds one: {OTHERS}")
    if axes.channels not in (1, 3) or letters.count("C") > 1 or "SCS" in letters:
        raise OptionError(
            f"{of} has {axes.channels} channels, and a PNG holds 1 or 3: end the network with"
            f" x.argmax(1) for the class of the highest score, or {OTHERS}"
        )
    rows, columns = axes.extent[1:]
    if max(rows, columns) > MAX_SIDE:
        raise OptionError(
            f"{of} has {max(rows, columns)} rows or columns, and a PNG at most {MAX_SIDE}: {OTHERS}"
        )
    if axes.channels == 3 or dtype == torch.bool:  # compressed from a copy in memory
        size = BYTES_IN_MEMORY * rows * columns
        try:
            refuse_without_memory(size, f"the pixels of {path.name}", OTHERS)
        except ValueError as error:
            raise OptionError(f"cannot save as {path.name}: {error}") from None


def _letters(axes: Axes) -> str:
    """The layout of an output, without axes of one element but those of the image."""
    own = {None: "C", 0: "B"}
    found = [own.get(f.axis, "S") for f in axes.factors]
    # An image of one row or column has no factor for it.
    missing = sum(k not in axes.present for k in range(1, axes.rank))
    return "".join(found) + "S" * missing


def compress(numbers: Path, axes: Axes, file: Path) -> None:
    """Compress a picture into a PNG.

    Parameters
    ----------
    numbers
        A ``.npy`` file of an output, with elements of 8 or 16 bits or booleans.
    axes
        Axes of the output.
    file
        The PNG.
    """
    from imagecodecs import png_encode
    from PIL import Image

    array, (rows, columns) = mapped(numbers, "r"), axes.extent[1:]
    if axes.channels == 3:
        first = _letters(axes).startswith("C")
        picture = array.reshape((3, rows, columns) if first else (rows, columns, 3))
        picture = np.moveaxis(picture, 0, -1) if first else picture
        if array.dtype == np.uint16:  # which Pillow does not write
            file.write_bytes(png_encode(np.ascontiguousarray(picture)))
            return
        image = Image.fromarray(picture)
    elif array.dtype == bool:
        image = Image.fromarray(array.reshape(rows, columns))
    else:
        mode = "I;16" if array.dtype == np.uint16 else "L"
        # Pillow shares the memory of an array that it is given so.
        grey = array.reshape(rows, columns)
        image = Image.frombuffer(mode, (columns, rows), grey, "raw", mode, 0, 1)
    image.save(file, "PNG")


def is_png(path: Path) -> bool:
    """Whether a file is a PNG that can be opened."""
    from PIL import Image

    with Image.open(path) as image:
        return image.format == "PNG" and math.prod(image.size) > 0
