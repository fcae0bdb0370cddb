"""The padding operator: constants, reflections, copies of the border, circular padding."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..ir.axes import dim
from ..ir.node import Node
from ..ir.region import Region, Span
from ..ir.tiling import Tiling
from .base import Local, Rule, Tensors, Weights
from .elementwise import uncut
from .fallback import Whole
from .rearrange import rearranged
from .registry import rule
from .spatial import Spatial, clipped, margins, pad, places, without_unread


@dataclass(frozen=True)
class Border(Spatial):
    """Positions around the last dimensions (torch.nn.functional.pad).

    Parameters
    ----------
    around
        ``(before, after)`` for each of these dimensions; negative numbers crop.
    mode
        ``constant``, ``reflect``, ``replicate`` or ``circular``.
    """

    any_layout = True

    around: tuple[Span, ...]
    mode: str

    def gathers(self, operand: int, axis: int) -> bool:
        """Whether the padding is circular: then the first tile reads the end of the last one."""
        return self._circular(axis)

    def _circular(self, axis: int) -> bool:
        grown = axis in self.places and any(self.around[self.places.index(axis)])
        return self.mode == "circular" and grown

    def _kept(self, number: int) -> Span:
        """What is left of a dimension by the crop, which PyTorch does before it pads."""
        before, after = self.around[number]
        return max(0, -before), self.sizes()[number] - max(0, -after)

    def reads(self, number: int, span: Span) -> Span:
        n = self.sizes()[number]
        start, stop = (position - self.around[number][0] for position in span)
        if self.mode == "constant":
            return (start, stop)
        if self.mode == "circular":
            return (0, n) if any(self.around[number]) else span
        turns = [p for p in (0, n - 1) if start <= p < stop]
        ends = [self.source(p, number) for p in (start, stop - 1, *turns)]
        return (min(ends), max(ends) + 1)

    def source(self, position: int, number: int) -> int:
        """The position in a dimension that a position in or around it copies."""
        n = self.sizes()[number]
        if self.mode == "replicate":
            return min(max(position, 0), n - 1)
        if self.mode == "circular":
            first, stop = self._kept(number)
            return first + (position - first) % (stop - first)
        return (n - 1) - abs((n - 1) - abs(position))

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        x, needed = tensors[0], self.needed(region)
        held = clipped(needed, self.sizes())
        for number, (axis, (start, stop)) in enumerate(zip(self.places, held, strict=True)):
            if axis is None:  # the dimension is there whole; a crop may read only a part of it
                x = x.narrow(number - len(held), start, stop - start)
        if self.mode == "constant":
            x = without_unread(x, needed, self.sizes())
            return pad(x, margins(needed, self.sizes()), self.node.args.get("value") or 0.0)
        for number, (start, stop) in enumerate(self.spans(region)):
            before = self.around[number][0]
            copied = [self.source(p - before, number) - held[number][0] for p in range(start, stop)]
            if copied != list(range(x.shape[number - len(held)])):
                index = torch.tensor(copied, dtype=torch.long, device=x.device)
                x = x.index_select(number - len(held), index)
        return x

    def place(self, region: Region) -> Hashable:
        if self.mode == "circular":
            return None
        needed = self.needed(region)
        if self.mode == "constant":
            return tuple(margins(needed, self.sizes()))
        found: list[Hashable] = []
        for number, (start, stop) in enumerate(self.spans(region)):
            before, n = self.around[number][0], self.sizes()[number]
            inside = before <= start and stop - before <= n
            copied = () if inside else range(start - before, stop - before)
            found.append(tuple(self.source(p, number) - needed[number][0] for p in copied))
        return tuple(found)

    def lower(self, tiling: Tiling) -> Sequence[Node]:
        """Circular padding becomes a concatenation of one end, the middle and the other end."""
        pieces: dict[int, list[Span]] = {}
        for k, (before, after) in enumerate(self.around):
            if before or after:
                first, stop = self._kept(k)
                ends = (
                    [(stop - before, stop)] * (before > 0),
                    [(first, first + after)] * (after > 0),
                )
                number = len(self.node.shape) - len(self.around) + k
                pieces[number] = [*ends[0], (first, stop), *ends[1]]
        first = len(self.node.shape) - len(self.around)
        torus = all(self._circular(self.places[number - first] or 0) for number in pieces)
        cut = any(tiling.grid[self.places[number - first] or 0] > 1 for number in pieces)
        return rearranged(self.node, pieces) if torus and cut else (self.node,)


MODES = {"reflection": "reflect", "replication": "replicate", "constant": "constant"}


@rule("pad", "constant_pad_nd", *(
    f"{kind}_pad{n}d" for kind in ("reflection", "replication") for n in (1, 2, 3)
))  # fmt: skip
def border(node: Node) -> Rule | None:
    """The rule of padding: constants in any dimension, other modes in the last dimensions."""
    numbers = node.args["padding" if "padding" in node.args else "pad"]
    mode = node.args.get("mode") or MODES[node.kind.split("_")[0]]
    around = tuple(zip(numbers[::2], numbers[1::2], strict=True))[::-1]
    where = places(node.operand_axes[0], len(around))
    axes, first = node.operand_axes[0], len(node.shape) - len(around)
    grown = [first + k for k, ends in enumerate(around) if any(ends)]
    if where is None and uncut(axes, grown):  # of tokens, each by itself
        pairs = enumerate(zip(axes.dims, node.shape, strict=True))
        return Local(node, axes.with_dims([dim(m) if k in grown else d for k, (d, m) in pairs]))
    if where is None or 0 in where:
        return Whole(node) if len(around) < len(node.shape) else None
    return Border(node, where, around, mode)
