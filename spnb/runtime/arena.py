"""Where results lie: in places of the plan of buffers, in memory of their own, or on the heap."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch

from ..ir.axes import Axes, is_image
from ..ir.node import Node
from ..ir.region import Region
from ..kernels.preallocated import Arena, Pool
from ..rules import Rule
from ..rules.base import Call
from ..rules.fused import Fused
from .buffer_plan import Place, result_names, scratch_name
from .halo_tile import room

LARGE = 1 << 20
"""Bytes of an output that lies in memory of its own."""


class ResultPlaces:
    """The memory that results of a program are written to.

    Parameters
    ----------
    places, arena
        Where results lie that have a place, and the memory that it is in; without it, results lie
        where PyTorch puts them.
    kept
        Values that others may keep as long as they like, since the host gets them.
    """

    def __init__(self, places: Mapping[str, Place], arena: Arena | None, kept: Collection[str]):
        self._places, self._arena, self._kept, self._pool = places, arena, set(kept), Pool()

    def place(self, value: str) -> Place | None:
        """The place of a value, if it has one."""
        return self._places.get(value)

    def piece(self, place: Place, axes: Axes, region: Region, dtype: torch.dtype) -> torch.Tensor:
        """The part of a place that covers a region."""
        whole = self._arena.tensor(place.offset, axes.local_shape(place.region), dtype)
        return axes.piece(whole, place.region, region)

    def scratch(self, rule: Rule, given: Sequence[Region], region: Region) -> torch.Tensor | None:
        """Memory for what a call writes on the way, if it has a place."""
        found = rule.scratch(given[0], region) if given else None
        place = self._places.get(scratch_name(rule))
        return self.piece(place, *found, rule.node.dtype) if found and place else None

    def placed(self, call: Call, node: Node, rule: Rule, region: Region) -> Call:
        """A call whose result lies where it has a place, if it has one."""
        if node.name in self._places:
            results = [
                self.piece(self._places[name], node.axes, region, dtype)
                for name, dtype in zip(result_names(rule), rule.result_types, strict=True)
            ]
            return rule.into(call, results)
        size = node.axes.local_bytes(region, node.dtype.itemsize)
        fused = isinstance(rule, Fused) and rule.result_types and not rule.overwrites
        if not (self._arena and fused and node.name in self._kept and size > LARGE):
            return call

        def by_itself(*operands: torch.Tensor) -> torch.Tensor:
            return rule.into(call, [self.own(node.axes, region, node.dtype)])(*operands)

        return by_itself

    def own(self, axes: Axes, region: Region, dtype: torch.dtype) -> torch.Tensor:
        """Memory for what others may keep as long as they like; on the heap it leaves a hole."""
        size = axes.local_bytes(region, dtype.itemsize)
        if size <= LARGE or not is_image(axes) or self._arena is None:
            return room(axes, region, dtype)
        return self._pool.arena(size).tensor(0, axes.local_shape(region), dtype)
