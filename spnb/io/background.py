"""Images of which a region that holds only background is read as one colour.

A patch reads its region of the image at once, with what lies around it.  So a patch that sees
nothing but background reads one colour, and all such patches have one answer::

    ┌────┬────┬────┐
    │ bg │ bg │ bg │    read as one colour
    ├────┼────┼────┤
    │ bg │tissue▒▒▒│    read as it is, with its background
    └────┴────┴────┘
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import DTypeLike

from ..ir.region import Region
from .changed import Changed, changed_as
from .sources import Source, read_as


class Test(Protocol):
    """Tells background from what is to be seen."""

    @property
    def exact(self) -> bool:
        """Whether all that it calls background has the number that is read in its place."""
        ...

    def covers(self, numbers: Source, region: Region, dtype: DTypeLike) -> bool:
        """Whether a region of an image, read in a type, is nothing but background."""
        ...


@dataclass(frozen=True)
class Limits:
    """Background is where all channels lie between two numbers, both included.

    Attributes
    ----------
    low, high
        The numbers as the image is read in float32, and in float64; NaN for nodata.
    """

    low: tuple[float, float]
    high: tuple[float, float]

    @property
    def exact(self) -> bool:
        """Whether only one number is background."""
        return self.low[0] == self.high[0] or bool(np.isnan(self.low[0]))

    def covers(self, numbers: Source, region: Region, dtype: DTypeLike) -> bool:
        """See `Test`."""
        values = read_as(numbers, region, dtype)
        double = np.dtype(dtype) == np.float64
        low, high = (values.dtype.type(pair[double]) for pair in (self.low, self.high))
        if np.isnan(low):
            return bool(np.isnan(values).all())
        return bool(((values >= low) & (values <= high)).all())


@dataclass(frozen=True, eq=False)
class Mask:
    """Background is where a mask says so.

    Attributes
    ----------
    background
        Of any size: each of its positions stands for an equal share of the image.

    Examples
    --------
    >>> from spnb.io.sources import SyntheticSource
    >>> mask, image = Mask(np.array([[True, False]])), SyntheticSource((1, 3, 8, 8))
    >>> [mask.covers(image, Region(((0, 1), (0, 8), (0, n))), np.float32) for n in (4, 5)]
    [True, False]
    """

    background: np.ndarray

    exact = False

    def covers(self, numbers: Source, region: Region, dtype: DTypeLike) -> bool:
        """See `Test`."""
        sizes = zip(region.spans[1:], numbers.shape[2:], self.background.shape, strict=True)
        shares = (slice(a * m // n, -(-b * m // n)) for (a, b), n, m in sizes)
        return bool(self.background[tuple(shares)].all())


@dataclass(frozen=True, eq=False)
class Background(Changed):
    """Images of which a region that holds only background is read as one colour.

    Attributes
    ----------
    source
        The images as the network reads them.
    stored
        The same before they are preprocessed, by which background is told.
    test
        Tells background.
    colours
        The number of each channel that is read in place of background: in float32, and in float64.

    Examples
    --------
    >>> from spnb.io.sources import ArraySource
    >>> slide = ArraySource(np.array([[[1.0, 0.9, 0.2, 1.0]]]))
    >>> image = Background(slide, slide, Limits((0.8, 0.8), (1.0, 1.0)), ((1.0,), (1.0,)))
    >>> image.read(Region(((0, 1), (0, 2)))), image.read(Region(((0, 1), (0, 3))))
    (array([[[1., 1.]]], dtype=float32), array([[[1. , 0.9, 0.2]]], dtype=float32))
    """

    stored: Source
    test: Test
    colours: tuple[tuple[float, ...], tuple[float, ...]]

    def read_as(self, region: Region, dtype: DTypeLike) -> np.ndarray:
        if not self.holds_only_background(region, dtype):
            return read_as(self.source, region, dtype)
        return self.blank(region, dtype)

    def holds_only_background(self, region: Region, dtype: DTypeLike = np.float32) -> bool:
        """Whether there is nothing else in a region."""
        return self.test.covers(self.stored, region, dtype)

    def blank(self, region: Region, dtype: DTypeLike = np.float32) -> np.ndarray:
        """A region of the colour."""
        images, *space = region.shape
        numbers = self.colours[np.dtype(dtype) == np.float64]
        colour = np.array(numbers, dtype).reshape(-1, *[1] * len(space))
        return np.broadcast_to(colour, (images, len(colour), *space)).copy()

    def blanked(self) -> Background:
        """The same, of nothing but background."""
        spatial = len(self.shape) - 2
        return replace(self, test=Mask(np.ones((1,) * spatial, bool)))

    def over(self, act: Callable[[Source], Source]) -> Background:
        """The same of other sources, each made of one of these."""
        if self.source is self.stored:
            moved = act(self.source)
            return self if moved is self.source else replace(self, source=moved, stored=moved)
        return replace(self, source=act(self.source), stored=act(self.stored))


def background_of(source: Source) -> Background | None:
    """The images with background that a source reads, if there are any."""
    return changed_as(source, Background)
