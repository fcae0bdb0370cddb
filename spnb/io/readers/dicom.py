"""Images of DICOM, decoded whole with pydicom, which is not required."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..disk.files import NOT_DAMAGED, reading, refuse_without_memory
from ..layout import batched, named_layout
from ..sources import ArraySource
from .library_files import missing_library

if TYPE_CHECKING:
    from pydicom import Dataset

MARK = b"DICM"
"""What stands behind the first 128 bytes of a file."""

SLIDE = b"1.2.840.10008.5.1.4.1.1.77.1.6"
"""The class of slides, which OpenSlide reads by region."""


def read_dicom(
    path: str, name: str, channels: int, size: tuple[int, ...] | None, space: int
) -> ArraySource:
    """Read a DICOM: one image, or frames that are the images of a batch or a volume.

    Numbers that the file rescales (as a CT to Hounsfield units) are rescaled.  Others are divided
    by the largest one that the stored bits hold, unless they have a sign.

    Parameters
    ----------
    path, name
        The file, and its name in messages.
    channels, size
        Channels and spatial size that are wanted.
    space
        Number of spatial axes.

    Raises
    ------
    ValueError
        If it cannot be read, or pydicom is missing.
    """
    with reading(path):
        try:
            from pydicom import dcmread
            from pydicom.pixels import pixel_array
        except ImportError:
            raise missing_library("pydicom>=3") from None
        data = dcmread(path)
        if "Rows" not in data:
            raise ValueError("there is no image in it")
        colours = str(data.PhotometricInterpretation)
        if colours.startswith("PALETTE"):
            raise ValueError(f"colours of {colours} are not read: convert it to RGB")
        frames = int(data.get("NumberOfFrames", 1))
        count = frames * data.Rows * data.Columns * data.SamplesPerPixel
        way_out = NOT_DAMAGED + "convert it to a TIFF or a zarr"
        refuse_without_memory(4 * count, f"its {frames} frames", way_out)
        values = _numbers(data, pixel_array(data))
    axes = "Z" * (frames > 1) + "YX" + "S" * (data.SamplesPerPixel > 1)
    layout = named_layout(axes, values.shape, channels, size, max(space, 2), name)
    return ArraySource(batched(values, layout), name, path)


def _numbers(data: Dataset, stored: np.ndarray) -> np.ndarray:
    """The numbers that the stored ones stand for, as float32."""
    slope, shift = float(data.get("RescaleSlope", 1)), float(data.get("RescaleIntercept", 0))
    values = stored.astype(np.float32)
    if (slope, shift) != (1, 0):
        return values * np.float32(slope) + np.float32(shift)
    if stored.dtype.kind != "u":
        return values
    values /= (1 << int(data.BitsStored)) - 1
    return 1 - values if data.PhotometricInterpretation == "MONOCHROME1" else values
