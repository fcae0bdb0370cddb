"""Window operators that compute the core of a tile before its halo has arrived.

A tile's *core* is the part of the result that reads nothing of the halo; the rest is its *boundary*
(the words of Devito and PyOP2).  The window first slides over the tile alone, with zeros in
place of the halo.  Once the halo is here, the strips of the boundary are computed again.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..ir.cost import CORE
from ..ir.region import Region, length
from .base import Call, Weights
from .windows import Window


class CoreAndBoundary(NamedTuple):
    """How a window slides over a tile without its halo, and where the result is wrong then.

    Attributes
    ----------
    padding
        Zeros on both sides of each spatial dimension, in place of the halo.
    boundary
        Regions of the result that read the halo; no two overlap.  The rest is the core.
    """

    padding: list[int]
    boundary: list[Region]


@dataclass(frozen=True)
class CoreFirst(Window):
    """A window operator that may compute its core before the halo of its operand is here."""

    allocates = True

    def place(self, region: Region) -> Hashable:
        return ()

    def core_and_boundary(self, own: Region, region: Region) -> CoreAndBoundary | None:
        """How to compute a region before the halo of the first operand is here.

        Parameters
        ----------
        own
            The region of the operand that the tile owns.
        region
            The region of the result to compute.

        Returns
        -------
        CoreAndBoundary or None
            None where that gives no result of the region's size, or takes longer than to put tile
            and halo together.
        """
        if own.empty or own.spans[0] != region.spans[0]:
            return None
        padding, wrong, right = [], [], region
        for number, (start, stop) in enumerate(self.spans(region)):
            axis, n = self.places[number], self.sizes()[number]
            s, p = self.stride[number], self.padding[number]
            low, high = (0, n) if axis is None else own.spans[axis]
            padding.append(low - (start * s - p))
            count = self.count(number, high - low + 2 * padding[-1])
            first = start if low == 0 else max(start, -(-(low + p) // s))
            last = stop if high == n else min(stop, self.count(number, high + p))
            if padding[-1] < 0 or count != stop - start or first >= last:
                return None
            if axis is not None:
                strips = ((start, first), (last, stop))
                wrong += [right.along(axis, strip) for strip in strips if length(strip)]
                right = right.along(axis, (first, last))
        return CoreAndBoundary(padding, wrong) if self._pays(own, wrong) else None

    def _pays(self, own: Region, wrong: Sequence[Region]) -> bool:
        """Whether to compute the strips again takes less time than to join tile and halo."""
        share = sum(strip.size for strip in wrong) / math.prod(self.node.axes.extent)
        anew = len(wrong) * CORE.launch + share * self.node.flops / CORE.flops
        moved = 2 * own.size * self.node.operand_axes[0].channels * self.node.dtype.itemsize
        return anew < CORE.latency + moved / CORE.memory

    def bound_core(self, split: CoreAndBoundary, weights: Weights) -> Call:
        """A call that computes a region from the tile without its halo; its boundary is wrong.

        Parameters
        ----------
        split
            As `core_and_boundary` gave it.
        weights
            As for `apply`.
        """
        return self.sliding(split.padding, None, weights)
