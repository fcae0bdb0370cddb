"""The base of operators that slide a window over space: convolutions, pooling, unfolding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..ir.axes import Axes, is_image
from ..ir.region import Region, Span
from .base import Call, Tensors, Weights
from .calls import caller
from .spatial import Padded, Spatial, clipped, margins, pad, without_unread


@dataclass(frozen=True)
class Window(Spatial):
    """An operator that slides a window over its first operand.

    Parameters
    ----------
    kernel, stride, dilation, padding
        One number for each spatial dimension; ``padding`` counts positions before the first one.
    fill
        Value of the padding.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[int, ...]
    fill: float = 0.0

    def reads(self, number: int, span: Span) -> Span:
        k, s = self.kernel[number], self.stride[number]
        d, p = self.dilation[number], self.padding[number]
        return (span[0] * s - p, (span[1] - 1) * s - p + d * (k - 1) + 1)

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        return self._over(tensors[0].shape[-len(self.places) :], region, weights)(*tensors)

    def scratch(self, given: Region, region: Region) -> tuple[Axes, Region] | None:
        axes, spans = self.node.operand_axes[0], list(given.spans)
        _, around = self._margins(self._sizes(given), region)
        if not any(map(any, around)) or not is_image(axes) or 1 in self.sizes():
            return None  # a dimension of one position holds no axis, so its region cannot grow
        for axis, (low, high) in zip(self.places, around, strict=True):
            if axis is None:
                return None
            start, stop = spans[axis]
            spans[axis] = (start - low, stop + high)
        return axes, Region(tuple(spans))

    def bound(
        self,
        given: Sequence[Region],
        needs: Sequence[Region],
        region: Region,
        weights: Weights,
        scratch: torch.Tensor | None = None,
    ) -> Call:
        return self._over(self._sizes(given[0]), region, weights, scratch)

    def differentiable(
        self, given: Sequence[Region], needs: Sequence[Region], region: Region, weights: Weights
    ) -> Call:
        if type(self).apply is not Window.apply:
            return super().differentiable(given, needs, region, weights)
        return self._over(self._sizes(given[0]), region, weights)

    def _sizes(self, given: Region) -> tuple[int, ...]:
        """Sizes of a part of the first operand along its spatial dimensions."""
        return self.node.operand_axes[0].local_shape(given)[-len(self.places) :]

    def _over(
        self,
        sizes: Sequence[int],
        region: Region,
        weights: Weights,
        scratch: torch.Tensor | None = None,
    ) -> Call:
        """A call of the operator on a first operand of these sizes, for a region of the result.

        The operand may end up to a stride less one after the last window.
        """
        needed = self.needed(region)
        unread = zip(clipped(needed, self.sizes()), self.sizes(), strict=True)
        if any(n == 1 and a == b for (a, b), n in unread):
            return self._over_padding(needed, region, weights)
        native, around = self._margins(sizes, region)
        call = self.sliding(native, region, weights)
        if not any(map(any, around)):
            return call
        padded = Padded(around, self.fill, scratch)
        return lambda x, *more, **where: call(padded(x), *more, **where)

    def _over_padding(self, needed: Sequence[Span], region: Region, weights: Weights) -> Call:
        """The operator for a region whose windows see nothing but padding along a dimension."""
        call, around = (
            self.sliding([0] * len(needed), region, weights),
            margins(needed, self.sizes()),
        )

        def over_padding(x: torch.Tensor, *more: torch.Tensor, **where: torch.Tensor) -> Any:
            x = without_unread(x, needed, self.sizes())
            return call(pad(x, around, self.fill), *more, **where)

        return over_padding

    def _margins(
        self, sizes: Sequence[int], region: Region
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """Padding that PyTorch's operator adds on both sides, and padding added before it."""
        around, native = margins(self.needed(region), self.sizes()), []
        for number, (start, stop) in enumerate(self.spans(region)):
            # PyTorch's operator pads both sides by the same number, and copies nothing.  That is
            # right where both sides need as much, or where no window reaches the padding after
            # the last position.
            low, high = around[number]
            counts = {self.count(number, sizes[number] + low + end) for end in (low, high)}
            enough = sizes[number] >= self.least(number)
            alike = low >= high and enough and counts == {stop - start}
            native.append(low if alike else 0)
            around[number] = (0, 0) if alike else (low, high)
        return native, around

    def count(self, number: int, size: int) -> int:
        """Windows along a spatial dimension of this size, its padding included."""
        reach = self.dilation[number] * (self.kernel[number] - 1)
        return (size - reach - 1) // self.stride[number] + 1

    def least(self, number: int) -> int:
        """Positions along a spatial dimension that the operator must be given, padding aside."""
        return 1

    def sliding(self, padding: list[int], region: Region | None, weights: Weights) -> Call:
        """A call of the operator, which adds a symmetric ``padding`` to its operand."""
        return caller(self.node, weights, padding=padding)

    def left_over(self, held: Region, clipped: Region) -> Region:
        """The region of the first operand that may be handed over in place of its need.

        With a stride, positions may lie after the last window; they need not be cut off.
        """
        spans = list(clipped.spans)
        for number, axis in enumerate(self.places):
            if axis is not None:
                start, stop = spans[axis]
                reach = stop + self.stride[number] - 1
                spans[axis] = (start, max(stop, min(reach, held.spans[axis][1])))
        return Region(tuple(spans))
