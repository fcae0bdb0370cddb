"""The memory of a program's results: planned buffers, memory of their own, or the heap."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch

from ..ir.axes import Axes, is_image
from ..ir.node import Node
from ..ir.region import Region
from ..rules import Rule
from ..rules.base import Call
from ..rules.fused import Fused
from .arena import Arena, ArenaPool
from .buffer_plan import Place, result_names, scratch_name
from .halo_tile import room

LARGE = 1 << 20
"""Least bytes of an output with memory of its own; on the heap it would leave a hole."""


class ResultPlaces:
    """The memory that results of a program are written to.

    Parameters
    ----------
    places, arena
        The place of each value that has one, and the memory of these places.  Without an arena,
        PyTorch allocates every result.
    held_by_host
        Values that the host receives, and may hold for any time.
    """

    def __init__(
        self,
        places: Mapping[str, Place],
        arena: Arena | None,
        held_by_host: Collection[str],
    ):
        self._places = places if arena is not None else {}
        self._arena, self._held_by_host, self._pool = arena, set(held_by_host), ArenaPool()

    def tensor(
        self, value: str, axes: Axes, region: Region, dtype: torch.dtype
    ) -> torch.Tensor | None:
        """The part of a value's place that covers a region; None if it has no such place."""
        place = self._places.get(value)
        if place is None or self._arena is None or region not in place.region:
            return None
        whole = self._arena.tensor(place.offset, axes.local_shape(place.region), dtype)
        return axes.piece(whole, place.region, region)

    def scratch(self, rule: Rule, given: Sequence[Region], region: Region) -> torch.Tensor | None:
        """Memory for the temporary tensor of a call, if that tensor has a place."""
        found = rule.scratch(given[0], region) if given else None
        return found and self.tensor(scratch_name(rule), *found, rule.node.dtype)

    def placed(self, call: Call, node: Node, rule: Rule, region: Region) -> Call:
        """A call that writes its result to its place; the unchanged call if it has none."""
        if node.name in self._places:
            names = zip(result_names(rule), rule.result_types, strict=True)
            results = [self.tensor(name, node.axes, region, dtype) for name, dtype in names]
            return rule.into(call, [result for result in results if result is not None])
        fused = isinstance(rule, Fused) and rule.result_types and not rule.overwrites
        size = node.axes.local_bytes(region, node.dtype.itemsize)
        if not (self._arena and fused and node.name in self._held_by_host and size > LARGE):
            return call

        def into_own_memory(*operands: torch.Tensor) -> torch.Tensor:
            memory = self.own_memory(node.axes, region, node.dtype)
            return rule.into(call, [memory])(*operands)

        return into_own_memory

    def own_memory(self, axes: Axes, region: Region, dtype: torch.dtype) -> torch.Tensor:
        """New memory for a tensor that the host may hold for any time."""
        size = axes.local_bytes(region, dtype.itemsize)
        if size <= LARGE or not is_image(axes) or self._arena is None:
            return room(axes, region, dtype)
        return self._pool.arena(size).tensor(0, axes.local_shape(region), dtype)
