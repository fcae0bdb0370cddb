"""Reads files that results were saved in."""

import numpy as np
import zarr
from tifffile import imread


def read(path):
    """The whole array of an ``.npy``, TIFF or Zarr file."""
    if path.suffix == ".npy":
        return np.load(path)
    return zarr.open_array(str(path))[:] if path.suffix == ".zarr" else imread(path)
