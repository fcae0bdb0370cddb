"""Images of a data set as a network takes them: chosen, scaled, normalized, decoded once."""

from __future__ import annotations

import math
import shutil
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from ...errors import DatasetError
from ...ir.region import Region
from ...kernels.cores import num_cores
from ..changed import Changed
from ..disk.disk_space import claim
from ..disk.scratch import remove_scratch, scratch_folder
from ..open import open_source
from ..sources import FileSource, Source, read_as


@dataclass(frozen=True, eq=False)
class Scaled(Changed):
    """Images that are resized one by one when they are read."""

    size: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """``(images, channels, *spatial)``."""
        return (*self.source.shape[:2], *self.size)

    def read_as(self, region: Region, dtype: DTypeLike) -> np.ndarray:
        one, space = Region(((0, 1), *region.spans[1:])), Region.whole(self.source.shape[2:]).spans
        found = []
        for k in range(*region.spans[0]):
            array = self.source.read(Region(((k, k + 1), *space)))
            resized = open_source(array, channels=self.shape[1], size=self.size, resize=True)
            found.append(resized.read(one))
        return np.concatenate(found).astype(dtype, copy=False)


@dataclass(frozen=True, eq=False)
class Normalized(Changed):
    """Images with a mean subtracted, and divided by a standard deviation, channel by channel.

    Attributes
    ----------
    mean, std
        One number for all channels, or one for each.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        for name, numbers in (("mean", self.mean), ("std", self.std)):
            if len(numbers) not in (1, self.shape[1]):
                raise DatasetError(
                    f"normalize has a {name} of {len(numbers)} numbers, but images have"
                    f" {self.shape[1]} channels: give one number, or one for each channel"
                )

    def read_as(self, region: Region, dtype: DTypeLike) -> np.ndarray:
        space = (1,) * (len(self.shape) - 2)
        mean, std = (np.array(n, dtype).reshape(-1, *space) for n in (self.mean, self.std))
        return (read_as(self.source, region, dtype) - mean) / std


@dataclass(frozen=True, eq=False)
class Chosen(Changed):
    """Some images of a source, in an order of their own.

    Attributes
    ----------
    numbers
        Numbers of those that are chosen.

    Examples
    --------
    >>> from spnb.io.sources import ArraySource
    >>> images = ArraySource(np.arange(3.0).reshape(3, 1, 1))
    >>> Chosen(images, (2, 0)).read(Region.whole((2, 1))).ravel()
    array([2., 0.], dtype=float32)
    """

    numbers: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """``(images, channels, *spatial)``."""
        return (len(self.numbers), *self.source.shape[1:])

    def read_as(self, region: Region, dtype: DTypeLike) -> np.ndarray:
        numbers, (_, *space) = self.numbers[slice(*region.spans[0])], region.spans
        ones = [Region(((number, number + 1), *space)) for number in numbers]
        return np.concatenate([read_as(self.source, one, dtype) for one in ones])


def decoded(source: Source) -> Source:
    """Return the same images, decoded and resized once, in a file that ranks read by region.

    All images are decoded now, so that one that is damaged is found before a run.  If the file
    would fill more than half of the free disk, there is none, and images are decoded whenever they
    are read.

    Parameters
    ----------
    source
        Images that are decoded or resized one by one.

    Returns
    -------
    Source
        The file, which is removed with it; or the source itself.

    Raises
    ------
    DatasetError
        Naming an image that cannot be read.
    """
    folder = scratch_folder("images")
    remove = weakref.finalize(source, remove_scratch, folder)
    size = math.prod(source.shape) * np.dtype(np.float32).itemsize
    fits = size < shutil.disk_usage(folder).free // 2
    path = folder / "images.npy"
    held = np.lib.format.open_memmap(path, "w+", np.float32, source.shape) if fits else None
    if fits:
        claim(path, path)

    def decode(number: int) -> None:
        spans = ((number, number + 1), *Region.whole(source.shape[2:]).spans)
        image = source.read(Region(spans))
        if held is not None:
            held[number] = image[0]

    with ThreadPoolExecutor(num_cores()) as pool:
        list(pool.map(decode, range(source.shape[0])))  # the list raises the first error
    if held is None:
        return source
    remove.detach()
    file = FileSource(str(path), source.name)
    weakref.finalize(file, remove_scratch, folder)
    return file
