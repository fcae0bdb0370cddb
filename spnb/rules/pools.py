"""Pooling: windows without weights."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..ir.node import Node, overload
from ..ir.region import Region
from ..ir.tiling import Tiling
from .base import Call, Rule, Weights
from .calls import caller
from .core_first import CoreAndBoundary, CoreFirst
from .fallback import Whole
from .merged.reductions import over_last
from .registry import rule
from .spatial import per_dim, places
from .windows import Window

FEW = 64
"""Most numbers of a window for which PyTorch's sum has the same rounding in any memory order."""


@dataclass(frozen=True)
class Pool(Window):
    """A window without weights."""

    @property
    def plain(self) -> dict[str, Any]:
        """Arguments of a call on a padded operand, where ceil_mode adds no window."""
        return {"kernel_size": self.kernel, "stride": self.stride, "ceil_mode": False}


@dataclass(frozen=True)
class MaxPool(Pool, CoreFirst):
    """Max pooling; with ceil_mode, the last window may run past the padding and reads ``-inf``."""

    any_layout = True

    fill: float = -math.inf

    def place(self, region: Region) -> Hashable:
        return None if self.node.parts else ()  # indices are those of the image

    def core_and_boundary(self, own: Region, region: Region) -> CoreAndBoundary | None:
        split = None if self.node.parts else super().core_and_boundary(own, region)
        if split is None:
            return None
        pairs = zip(split.padding, self.kernel, strict=True)
        return split if all(2 * p <= k for p, k in pairs) else None  # PyTorch pads no further

    @property
    def result_types(self) -> tuple[torch.dtype, ...]:
        image = len(self.places) == 2 and self.node.axes.plain and len(self.node.shape) == 4
        alone = not self.node.parts and self.node.dtype.is_floating_point
        return (self.node.dtype, torch.int64) if image and alone else ()

    def into(self, call: Call, results: Sequence[torch.Tensor]) -> Call:
        largest, where = results  # PyTorch always writes the indices of the maxima, too
        return lambda x: call(x, out=largest, indices=where)[0]

    def sliding(self, padding: list[int], region: Region | None, weights: Weights) -> Call:
        call = caller(self.node, weights, **self.plain, padding=padding)
        if not self.node.dtype.is_floating_point:  # PyTorch pools them in its default order only
            return lambda x: call(x.contiguous())
        if self.result_types:
            noting = "aten.max_pool2d_with_indices.out"
            args = (self.kernel, self.stride, padding, self.dilation)
            return lambda x, **out: overload(noting)(x, *args, **out) if out else call(x)
        if not self.node.parts or region is None:
            return call

        def with_indices(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            largest, flat = call(x)
            return largest, self._in_image(flat, x.shape, padding, region)

        return with_indices

    def _in_image(
        self, flat: torch.Tensor, local: Sequence[int], padding: list[int], region: Region
    ) -> torch.Tensor:
        """Indices of the maxima in the image, from their indices in the padded operand."""
        sizes, position = self.sizes(), torch.zeros_like(flat)
        inner = math.prod(local[-len(sizes) :])
        for number, ((start, _), n) in enumerate(zip(self.needed(region), sizes, strict=True)):
            width = local[len(local) - len(sizes) + number]
            inner //= width
            # indices do not count padding that PyTorch's operator adds itself
            first = max(start, 0) if padding[number] else start
            position = position * n + flat // inner % width + first
        return position


@dataclass(frozen=True)
class AvgPool(Pool):
    """Average pooling; the divisor of a window at the border depends on its position.

    PyTorch divides by the number of the window's positions inside the image; with
    ``count_include_pad``, inside the image and its padding.  Positions that only ``ceil_mode``
    reaches are never counted.
    """

    allocates = True

    @property
    def any_layout(self) -> bool:
        return math.prod(self.kernel) <= FEW

    def place(self, region: Region) -> Hashable:
        return ()  # windows that are divided by less run past the image, by a margin

    def least(self, number: int) -> int:
        return self.kernel[number] if len(self.places) == 3 else 1  # PyTorch's check of volumes

    def sliding(self, padding: list[int], region: Region | None, weights: Weights) -> Call:
        plain = {**self.plain, "padding": padding, "count_include_pad": True}
        call = caller(self.node, weights, **plain)
        if self.node.args.get("divisor_override") or region is None:
            return call
        factors = self._divisors(region)

        def divided(x: torch.Tensor) -> torch.Tensor:
            mean = call(x)
            for factor in factors:
                mean = mean * factor
            return mean

        return divided

    def _divisors(self, region: Region) -> list[torch.Tensor]:
        """Factors that turn means over whole windows into means over their counted positions."""
        sizes, spans, found = self.sizes(), self.spans(region), []
        for number, (span, n) in enumerate(zip(spans, sizes, strict=True)):
            k, s, p = self.kernel[number], self.stride[number], self.padding[number]
            low, high = (-p, n + p) if self.node.args["count_include_pad"] else (0, n)
            first = torch.arange(*span) * s - p
            counted = (first + k).clamp(max=high) - first.clamp(min=low)
            if not bool((counted == k).all()):
                shape = [-1] + [1] * (len(sizes) - number - 1)
                found.append((k / counted.to(self.node.dtype)).reshape(shape))
        return found

    def lower(self, tiling: Tiling) -> Sequence[Node]:
        """A single window over all of space becomes a mean: each tile computes its share."""
        sizes = self.sizes()
        if self.kernel != sizes or any(self.padding) or self.node.args.get("divisor_override"):
            return (self.node,)
        return over_last(self.node, "mean", len(sizes)).lower(tiling)


POOLS = {"max_pool": MaxPool, "avg_pool": AvgPool}


@rule(*(f"{kind}{n}d{suffix}" for n in (1, 2, 3) for kind, suffix in (
    ("max_pool", ""), ("max_pool", "_with_indices"), ("avg_pool", "")
)))  # fmt: skip
def pool(node: Node) -> Rule | None:
    """The rule of pooling; windows read ``-inf`` (max) or zeros (average) outside the image."""
    count = int(node.kind[8])
    where = places(node.operand_axes[0], count)
    if where is None:
        return Whole(node)
    kernel = per_dim(node.args["kernel_size"], count)
    stride = per_dim(node.args["stride"] or kernel, count)
    dilation = per_dim(node.args.get("dilation", 1), count)
    padding = per_dim(node.args["padding"], count)
    sizes = zip(node.operand_shapes[0][-count:], node.shape[-count:], strict=True)
    kernel = tuple(
        min(k, n + 2 * p) if m == d == 1 else k  # with ceil_mode a window may reach far outside
        for k, d, p, (n, m) in zip(kernel, dilation, padding, sizes, strict=True)
    )
    found = POOLS[node.kind[:8]](node, where, kernel, stride, dilation, padding)
    if isinstance(found, MaxPool) and not node.dtype.is_floating_point:
        return replace(found, fill=torch.iinfo(node.dtype).min)
    return found
