"""Sampling at given coordinates: which positions each sample reads, and how it weighs them.

This is the arithmetic of `torch.nn.functional.grid_sample`, step by step, so that a tile finds the
same positions and weights as the untiled run.  Along a dimension, a sample between two positions
reads both (bilinear), two more (bicubic), or the nearer one::

    coordinate      -1 ·····  0.3 ·· 1       a share of the image's width
    location              3.6                in positions
    taps              3 (0.4)  4 (0.6)       with their shares
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch

from ..ir.region import Span, join

BILINEAR, NEAREST, BICUBIC = 0, 1, 2
ZEROS, BORDER, REFLECTION = 0, 1, 2

CUBIC = -0.75
"""The parameter of PyTorch's cubic convolution."""


@dataclass(frozen=True)
class Sampling:
    """How samples are taken: the arguments of grid_sample, with PyTorch's numbers for modes.

    Attributes
    ----------
    mode
        0 bilinear, 1 nearest, 2 bicubic.
    padding
        What lies outside the image: 0 zeros, 1 the border, 2 the image reflected.
    align_corners
        Whether -1 and 1 are the centres of the outer positions, and not their outer edges.
    sizes
        Of the whole image.
    """

    mode: int
    padding: int
    align_corners: bool
    sizes: tuple[int, ...]

    def taps(self, grid: torch.Tensor) -> list[Taps]:
        """The taps of each sample, along each dimension.

        Parameters
        ----------
        grid
            Coordinates of shape ``(batch, *samples, dimensions)``, the last dimension first.
        """
        if self.mode == NEAREST:
            return [Taps(place[..., None], None) for place in self._nearest(grid)]
        pairs = zip(reversed(grid.unbind(-1)), self.sizes, strict=True)
        return [self._taps(along, n) for along, n in pairs]

    def _nearest(self, grid: torch.Tensor) -> list[torch.Tensor]:
        """The nearest position along each dimension; -1 outside the image.

        PyTorch itself takes samples of the numbers of positions, so that halves are rounded alike.
        """
        found = []
        for number, n in enumerate(self.sizes):
            shape = [1] * len(self.sizes)
            shape[number] = n
            numbers = torch.arange(1, n + 1, dtype=grid.dtype, device=grid.device)
            image = numbers.reshape(1, 1, *shape).expand(len(grid), 1, *self.sizes)
            taken = torch.grid_sampler(image, grid, NEAREST, self.padding, self.align_corners)
            found.append(taken[:, 0].round().long() - 1)
        return found

    def _taps(self, along: torch.Tensor, n: int) -> Taps:
        location = (along + 1) * ((n - 1) / 2)
        if not self.align_corners:  # PyTorch rounds once: a fused multiplication and subtraction
            location = ((along + 1).double() * (n / 2) - 0.5).to(along.dtype)
        if self.mode == BILINEAR:
            location = self._inside(location, n)
        elif self.padding != REFLECTION:
            location = location.clamp(-4, n + 4)  # it reads zeros or the border from there on
        location = location.clamp(-1e9, 1e9)
        first = location.floor()
        after = location - first
        if self.mode == BILINEAR:
            places = first[..., None] + torch.arange(2, device=first.device)
            shares = torch.stack([1 - after, after], -1)
        else:
            places = first[..., None] + torch.arange(-1, 3, device=first.device)
            places = self._inside(places, n)
            shares = _cubic_shares(after)
        outside = (places < 0) | (places >= n)
        return Taps(torch.where(outside, -1, places).long(), shares)

    def _inside(self, location: torch.Tensor, n: int) -> torch.Tensor:
        """Locations that are outside the image, moved to where their number is read."""
        if self.padding == ZEROS:
            return location
        if self.padding == REFLECTION:
            location = _reflected(location, n, self.align_corners)
        return location.clamp(0, n - 1)

    def reach(self, grid: torch.Tensor, blocks: int = 32) -> Reach:
        """The positions that blocks of samples read; the blocks of each dimension are alike."""
        counts = grid.shape[1:-1]
        steps = tuple(-(-n // blocks) for n in counts)
        rows = [self._reach_of_rows(part, steps) for part in grid.split(steps[0], 1)]
        ends = [torch.stack(each) for each in zip(*rows, strict=True)]
        return Reach(steps, tuple(tuple(end.flatten().tolist()) for end in ends), counts)

    def _reach_of_rows(self, grid: torch.Tensor, steps: Sequence[int]) -> list[torch.Tensor]:
        """The first and the last position that a row of blocks reads, along each dimension."""
        found = []
        for taps, n in zip(self.taps(grid), self.sizes, strict=True):
            places = taps.places
            first = torch.where(places < 0, n, places).amin(-1).amin((0, 1))
            last = places.amax(-1).amax((0, 1))
            for step in steps[1:]:  # the next dimension of samples is the first by now
                first = torch.stack([part.amin(0) for part in first.split(step)], -1)
                last = torch.stack([part.amax(0) for part in last.split(step)], -1)
            found += [first, last]
        return found


@dataclass(frozen=True)
class Taps:
    """The positions that samples read along a dimension, and their shares.

    Attributes
    ----------
    places
        Of shape ``(batch, *samples, taps)``; -1 for a tap outside the image, which counts as zero.
    shares
        Of the same shape; None if each sample is one position.
    """

    places: torch.Tensor
    shares: torch.Tensor | None


@dataclass(frozen=True)
class Reach:
    """The positions that samples read, by blocks of samples; plain data for a plan.

    Attributes
    ----------
    steps
        Size of a block along each dimension of the samples.
    ends
        For each dimension of the image, the first and the last position that each block reads.
    counts
        Number of samples along each dimension.
    """

    steps: tuple[int, ...]
    ends: tuple[tuple[int, ...], ...]
    counts: tuple[int, ...]

    def of(self, spans: Sequence[Span]) -> list[Span]:
        """The span of each dimension of the image that a box of samples reads."""
        blocks = [-(-n // step) for n, step in zip(self.counts, self.steps, strict=True)]
        numbers = torch.arange(math.prod(blocks)).reshape(blocks)
        for number, ((a, b), step) in enumerate(zip(spans, self.steps, strict=True)):
            numbers = numbers.narrow(number, a // step, -(-b // step) - a // step)
        wanted = numbers.flatten().tolist()
        found = []
        for first, last in zip(self.ends[::2], self.ends[1::2], strict=True):
            read = [(first[k], last[k] + 1) for k in wanted if first[k] <= last[k]]
            found.append(reduce(join, read, (0, 0)))
        return found


def _reflected(location: torch.Tensor, n: int, align_corners: bool) -> torch.Tensor:
    """Locations reflected into the image, at the centres or the edges of its outer positions."""
    if align_corners and n == 1:
        return torch.zeros_like(location)
    low, twice = (0.0, 2 * (n - 1)) if align_corners else (-0.5, 2 * n)
    distance = (location - low).abs()
    extra = distance - (distance / twice).trunc() * twice
    return torch.minimum(extra, twice - extra) + low


def _cubic_shares(after: torch.Tensor) -> torch.Tensor:
    """The shares of four taps, for the distance after the second one."""

    def near(x: torch.Tensor) -> torch.Tensor:
        return ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1

    def far(x: torch.Tensor) -> torch.Tensor:
        return ((CUBIC * x - 5 * CUBIC) * x + 8 * CUBIC) * x - 4 * CUBIC

    return torch.stack([far(after + 1), near(after), near(1 - after), far(2 - after)], -1)


def weighted(x: torch.Tensor, taps: Sequence[Taps], starts: Sequence[int]) -> torch.Tensor:
    """Samples of a box of an image.

    Parameters
    ----------
    x
        The box, of shape ``(batch, channels, *sizes)``.
    taps
        Along each dimension; all that are not outside the image lie in the box.
    starts
        Where the box begins along each dimension.
    """
    batch, channels, *sizes = x.shape
    flat, found = x.flatten(2), []
    for corner in itertools.product(*(range(each.places.shape[-1]) for each in taps)):
        pairs = list(zip(taps, corner, strict=True))
        place = torch.stack([each.places[..., k] for each, k in pairs])
        at = torch.zeros_like(place[0])
        for along, start, n in zip(place, starts, sizes, strict=True):
            at = at * n + (along - start).clamp(0, n - 1)
        picked = flat.gather(2, at.reshape(batch, 1, -1).expand(-1, channels, -1))
        picked = picked.masked_fill((place < 0).any(0).reshape(batch, 1, -1), 0.0)
        for each, k in pairs:
            if each.shares is not None:
                picked = picked * each.shares[..., k].reshape(batch, 1, -1)
        found.append(picked)
    return sum(found[1:], found[0]).reshape(batch, channels, *taps[0].places.shape[1:-1])
