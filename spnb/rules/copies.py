"""Copies of a tensor one after another, along channels or along space (torch.Tensor.repeat)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from ..ir.axes import Axes, axes_in
from ..ir.node import Node, Ref
from ..ir.tiling import Tiling
from .base import Rule
from .fallback import Whole
from .rearrange import rearranged
from .registry import rule
from .views import Repeat


@dataclass(frozen=True)
class Copies(Whole):
    """Copies of an image one after another along space, and perhaps of its channels."""

    @cached_property
    def _along(self) -> list[int]:
        """The dimensions of space that are copied."""
        axes, times = self.node.operand_axes[0], self.node.args["repeats"]
        return [k for k, r in enumerate(times) if r > 1 and axes.axes_of(k)]

    @cached_property
    def axes(self) -> Axes:
        found = self._of_channels().axes
        for number in self._along:
            found = found.resized(number, self.node.shape[number])
        return found

    def gathers(self, operand: int, axis: int) -> bool:
        return any(axis in self.axes.axes_of(number) for number in self._along)

    def _of_channels(self) -> Repeat:
        """The call that copies along all other dimensions."""
        repeats = [1 if k in self._along else r for k, r in enumerate(self.node.args["repeats"])]
        pairs = enumerate(zip(self.node.shape, self.node.operand_shapes[0], strict=True))
        shape = tuple(n if k in self._along else m for k, (m, n) in pairs)
        args = {**self.node.args, "repeats": repeats}
        axes = Axes.uncut(shape, self.node.axes.rank)
        return Repeat(replace(self.node, name=f"{self.node.name}.channels", args=args, axes=axes))

    def lower(self, tiling: Tiling) -> Sequence[Node]:
        """Each copy is sent to the tiles that need a part of it."""
        channels, times = self._of_channels(), self.node.args["repeats"]
        first = replace(channels.node, axes=channels.axes)
        of_space = [r if k in self._along else 1 for k, r in enumerate(times)]
        args = {"self": Ref(first.name), "repeats": of_space}
        copied = replace(self.node, args=args, operand_axes=(first.axes,))
        if any(tiling.grid[axis] > 1 for k in self._along for axis in self.axes.axes_of(k)):
            pieces = {k: [(0, first.shape[k])] * times[k] for k in self._along}
            return [first, *rearranged(copied, pieces)]
        return [first, copied] if of_space != times else [self.node]


@rule("repeat")
def repeat(node: Node) -> Rule | None:
    """Copies one after another (torch.Tensor.repeat)."""
    axes, times = node.operand_axes[0], node.args["repeats"]
    before = len(times) - len(axes.dims)
    factors = [axes.dims[k] for k, r in enumerate(times[before:]) if r > 1]
    if not any(map(axes_in, factors)):
        return Repeat(node)
    if any(0 in axes_in(f) for f in factors):
        return None
    return Whole(node) if before or any(len(f) > 1 for f in factors) else Copies(node)
