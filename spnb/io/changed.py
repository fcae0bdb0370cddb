"""Images of a source that are changed as they are read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import DTypeLike

from ..ir.region import Region
from .sources import Repeated, Source

T = TypeVar("T", bound="Changed")


@dataclass(frozen=True, eq=False)
class Changed(ABC):
    """Images of a source, changed; a class that is derived from it says how.

    Attributes
    ----------
    source
        The images as they were.
    """

    source: Source

    @property
    def name(self) -> str:
        """Name of the images."""
        return self.source.name

    @property
    def shape(self) -> tuple[int, ...]:
        """``(images, channels, *spatial)``."""
        return self.source.shape

    def read(self, region: Region) -> np.ndarray:
        """Read a region; see `spnb.io.sources.Source`."""
        return self.read_as(region, np.float32)

    @abstractmethod
    def read_as(self, region: Region, dtype: DTypeLike) -> np.ndarray:
        """Read a region in another type; see `spnb.io.sources.read_as`."""


def changed_as(source: Source, kind: type[T]) -> T | None:
    """The images that are changed in one way, among those that a source reads; None for none."""
    while isinstance(source, (Changed, Repeated)):
        if isinstance(source, kind):
            return source
        source = source.source
    return None
