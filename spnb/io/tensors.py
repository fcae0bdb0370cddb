"""Regions of images as tensors for a network."""

from __future__ import annotations

import numpy as np
import torch

from ..ir.region import Region
from .sources import Source


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
    array = np.require(source.read(region), requirements="W")  # torch warns of read-only arrays
    return torch.from_numpy(array).to(dtype)
