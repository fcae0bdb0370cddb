"""Regions of images as tensors for a network."""

from __future__ import annotations

import numpy as np
import torch

from ..ir.region import Region
from .sources import Source, read_as


def numpy_floats(dtype: torch.dtype) -> np.dtype:
    """Return the type in which images are read for a network of a type.

    >>> numpy_floats(torch.float64), numpy_floats(torch.bfloat16)
    (dtype('float64'), dtype('float32'))
    """
    return np.dtype(np.float64 if dtype == torch.float64 else np.float32)


def read_tensor(source: Source, region: Region, dtype: torch.dtype) -> torch.Tensor:
    """Read a region of an image as a tensor.

    Parameters
    ----------
    source
        The image.
    region
        The region over ``(batch, *spatial)``.
    dtype
        Type of the tensor.

    Returns
    -------
    torch.Tensor
        ``(images, channels, *spatial)``, of the region's size; its memory may be written.

    Examples
    --------
    >>> from spnb.io.sources import SyntheticSource
    >>> source = SyntheticSource((1, 3, 65536, 65536))
    >>> read_tensor(source, Region(((0, 1), (0, 8), (0, 5))), torch.float64).shape
    torch.Size([1, 3, 8, 5])
    """
    values = read_as(source, region, numpy_floats(dtype))
    array = np.require(values, requirements="W")  # torch warns of read-only arrays
    return torch.from_numpy(array).to(dtype)
