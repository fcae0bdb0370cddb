"""Interpolation: each position of the result is a weighted sum of a few of the operand."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch

from ..ir.axes import Axes, is_image
from ..ir.node import Node, overload
from ..ir.region import Region, Span
from .base import Call, Rule, Tensors, Weights
from .fallback import Whole
from .registry import rule
from .spatial import Spatial, places

BAND = 1 << 20
"""Bytes of a result that are summed at once, so that they stay in the processor's cache."""


LINES = 32
"""Lines that `taps_of` interpolates at once."""


@dataclass(frozen=True)
class Taps:
    """The positions that each position of a result is a weighted sum of, along one dimension.

    Attributes
    ----------
    shares, sources
        Weights and positions, each of shape ``(taps, length of the result)``.
    read
        Of the same shape: whether PyTorch reads this position.  It reads some of which the weight
        is 0, and then NaN and infinity there make the result NaN.
    first, last
        The least and greatest source that is read.
    """

    shares: torch.Tensor
    sources: torch.Tensor
    read: torch.Tensor
    first: torch.Tensor
    last: torch.Tensor


@lru_cache(maxsize=256)
def taps_of(
    kind: str, n: int, m: int, align_corners: bool | None, scale: float | None, dtype: torch.dtype
) -> Taps:
    """Find the taps of an interpolation from ``n`` positions to ``m``.

    A weight depends on the position in the whole image, with rounding errors that grow with it; a
    tile with positions of its own would have other errors.  So PyTorch's operator itself is run on
    a few lines of zeros and ones as long as the image.  Every ``period``-th position of a line is
    one, so the result on a line shows the weights of the taps at its ones.  With NaN in place of
    ones, it shows which positions are read.  With infinity, it shows those that are read twice
    near the border with weights of different signs, of which the sum is NaN; such a position gets
    a second tap, of weight 0.

    >>> taps = taps_of("upsample_linear1d", 3, 6, False, None, torch.float32)
    >>> taps.shares[:, 1], taps.sources[:, 1]
    (tensor([0.7500, 0.2500]), tensor([0, 1]))
    """
    count = _most_taps(kind, _step(n, m, align_corners, scale))
    period, probe = count + 2, _Probe(kind, n, m, align_corners, scale, dtype)
    shares, read = probe.shown(1.0, period), probe.shown(math.nan, period).isnan()
    twice = torch.zeros_like(read)
    if count > 1 and not kind.endswith("_aa"):
        twice = probe.shown(math.inf, period, rows=4).isnan() & (shares != 0)
    base = torch.floor(_sources(kind, n, m, align_corners, scale)).long() - (count + 1) // 2
    residues = torch.arange(period, device="cpu").unsqueeze(1)
    sources = (base + (residues - base) % period).clamp(0, n - 1)
    wanted = torch.cat([2 * read, 1 * twice])  # first all that are read, then second taps
    order = wanted.sort(dim=0, descending=True, stable=True).indices[:count]
    shares = torch.cat([shares, torch.zeros_like(shares)]).gather(0, order)
    sources, read = sources.repeat(2, 1).gather(0, order), wanted.gather(0, order) > 0
    first = torch.where(read, sources, n).amin(0)
    return Taps(shares, sources, read, first, torch.where(read, sources, -1).amax(0))


@dataclass(frozen=True)
class _Probe:
    """An interpolation of lines that show what it reads; the arguments are those of `taps_of`."""

    kind: str
    n: int
    m: int
    align_corners: bool | None
    scale: float | None
    dtype: torch.dtype

    def shown(self, value: float, period: int, rows: int = 1) -> torch.Tensor:
        """The result on ``period`` lines, in which every ``period``-th position has a value.

        PyTorch 2.13 antialiases an image of a single column wrongly: the lines lie along a row.

        Parameters
        ----------
        value
            The value; all other positions are 0.
        period
            The number of lines; the value is at position k of line k, and so on.
        rows
            Positions along other dimensions.  Of several, one has a weight in the result that is
            neither 0 nor the sum of two, and only this one has the line.
        """
        ends = ((k, min(k + LINES, period)) for k in range(0, period, LINES))
        return torch.cat([self._of_lines(value, period, rows, *each) for each in ends])

    def _of_lines(
        self, value: float, period: int, rows: int, first: int, stop: int
    ) -> torch.Tensor:
        """The result on some of the lines."""
        others, corners = dimensions_of(self.kind) - 1, self.align_corners
        fewer, place, taken = rows, 0, 0
        if rows == 4:  # the result has weights for positions 0 and 1, or for 1 and 2
            fewer, place, taken = (3, 1, 1) if corners else (2, 1, 0)
        shape = (1, stop - first, *[rows] * others, self.n)
        lines = torch.zeros(shape, dtype=self.dtype, device="cpu")
        line = lines[0]
        for _ in range(others):
            line = line[:, place]
        at = torch.arange(self.n, device="cpu")
        here = at[(at % period >= first) & (at % period < stop)]
        line[here % period - first, here] = value
        given = [] if corners is None else [corners]
        size, scales = [*[fewer] * others, self.m], [*[None] * others, self.scale]
        found = overload(f"aten.{self.kind}.default")(lines, size, *given, *scales)[0]
        for _ in range(others):
            found = found[:, taken]
        return found


def dimensions_of(kind: str) -> int:
    """The number of dimensions in an operator's name.

    >>> dimensions_of("upsample_trilinear3d"), dimensions_of("_upsample_bilinear2d_aa")
    (3, 2)
    """
    return int(kind.removesuffix("_aa")[-2])


def _most_taps(kind: str, step: float) -> int:
    """The most positions that a position of the result is a sum of; antialiasing needs more."""
    count = 1 if "nearest" in kind else 4 if "cubic" in kind else 2
    if kind.endswith("_aa"):
        return 2 * math.ceil(count / 2 * max(1.0, step)) + 1
    return count


def _step(n: int, m: int, align_corners: bool | None, scale: float | None) -> float:
    """The distance in the operand between two positions of the result."""
    if align_corners:
        return (n - 1) / (m - 1) if m > 1 else 0.0
    return 1.0 / scale if scale else n / m


def _sources(
    kind: str, n: int, m: int, align_corners: bool | None, scale: float | None
) -> torch.Tensor:
    """Approximate position in the operand of each position (torch.nn.functional.interpolate)."""
    at = torch.arange(m, dtype=torch.float64, device="cpu")
    step = _step(n, m, align_corners, scale)
    if align_corners and not kind.endswith("_aa"):
        return at * step
    if "nearest" in kind:
        return (at + 0.5 * ("exact" in kind)) * step
    return (at + 0.5) * step - 0.5


@dataclass(frozen=True)
class Interpolation(Spatial):
    """Each position is a weighted sum of a few, along one dimension after another.

    Parameters
    ----------
    align_corners
        As in torch.nn.functional.interpolate; None for methods without this argument.
    scales
        The given factors, per dimension; None where sizes were given.
    """

    any_layout = True
    allocates = True

    align_corners: bool | None
    scales: tuple[float | None, ...]

    def taps(self, number: int) -> Taps:
        """The taps along a spatial dimension."""
        n, m = self.sizes()[number], self.result_sizes()[number]
        half = self.node.dtype in (torch.float16, torch.bfloat16)
        dtype = torch.float32 if half else self.node.dtype
        return taps_of(self.node.kind, n, m, self.align_corners, self.scales[number], dtype)

    def reads(self, number: int, span: Span) -> Span:
        taps = self.taps(number)
        return (int(taps.first[slice(*span)].min()), int(taps.last[slice(*span)].max()) + 1)

    @cached_property
    def doublings(self) -> list[int] | None:
        """The factor of each dimension, if all are powers of two; else None.

        With such factors the weights have no rounding errors, so they are the same in every tile.
        """
        if self.node.kind.endswith("_aa"):
            return None
        found = []
        for number, (n, m) in enumerate(zip(self.sizes(), self.result_sizes(), strict=True)):
            factor = m // n
            plain = m == n * factor and factor.bit_count() == 1 and not self.align_corners
            if not plain or self.scales[number] not in (None, factor):
                return None
            found.append(factor)
        return found if self.node.dtype in (torch.float32, torch.float64) else None

    @property
    def result_types(self) -> tuple[torch.dtype, ...]:
        return (self.node.dtype,) if is_image(self.node.axes) else ()

    def into(self, call: Call, results: Sequence[torch.Tensor]) -> Call:
        return lambda x: call(x, results[0])

    def scratch(self, given: Region, region: Region) -> tuple[Axes, Region] | None:
        grown = self._grown(region) if self.doublings and self.result_types else region
        return None if grown == region else (self.node.axes, grown)

    def _grown(self, region: Region) -> Region:
        """The region that PyTorch's operator computes from everything that a region reads."""
        factors = self.doublings or ()
        for number, (axis, factor) in enumerate(zip(self.places, factors, strict=True)):
            if axis is not None:
                start, stop = self.reads(number, region.spans[axis])
                region = region.along(axis, (start * factor, stop * factor))
        return region

    def bound(
        self,
        given: Sequence[Region],
        needs: Sequence[Region],
        region: Region,
        weights: Weights,
        scratch: torch.Tensor | None = None,
    ) -> Call:
        if self.doublings is None:
            return lambda x, memory=None: self._in_bands(x, region, memory)
        axes, grown = self.node.axes, self._grown(region)
        operator, corners = f"aten.{self.node.kind}", [False] * (self.align_corners is not None)
        sizes = axes.local_shape(grown)[-len(self.places) :]

        def call(x: torch.Tensor, memory: torch.Tensor | None = None) -> torch.Tensor:
            # Scratch memory is reused after this call, so only a copy of it may be returned.
            out = memory if grown == region or memory is None else scratch
            if out is None:
                whole = overload(f"{operator}.default")(x, sizes, *corners)
            else:
                whole = overload(f"{operator}.out")(x, sizes, *corners, out=out)
            if grown == region:
                return whole
            piece = axes.piece(whole, grown, region)
            return piece if memory is None else memory.copy_(piece)

        return call

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        return self.bound(needs, needs, region, weights)(*tensors)

    def place(self, region: Region) -> Hashable:
        found: list[Hashable] = []
        for number, span in enumerate(self.spans(region)):
            first, _ = self.reads(number, span)
            if self.doublings is not None:
                found.append(span[0] - first * self.doublings[number])
                continue
            taps, part = self.taps(number), (slice(None), slice(*span))
            numbers = (taps.shares[part], taps.sources[part] - first, taps.read[part])
            found += [each.numpy().tobytes() for each in numbers]
        return tuple(found)

    def _in_bands(
        self, x: torch.Tensor, region: Region, memory: torch.Tensor | None
    ) -> torch.Tensor:
        """The sum, band by band along the first dimension; a band's operands stay in the cache."""
        spans = self.spans(region)
        starts = [
            0 if place is None else self.reads(number, spans[number])[0]
            for number, place in enumerate(self.places)
        ]
        (first, last), *others = spans
        shape = self.node.axes.local_shape(region)
        rows = max(1, BAND * (last - first) // (math.prod(shape) * self.node.dtype.itemsize or 1))
        if first + rows >= last and memory is None:
            return self._summed(x, spans, starts)
        dim, bands = len(shape) - len(spans), []
        for start in range(first, last, rows):
            stop = min(start + rows, last)
            low, high = (max(0, end - starts[0]) for end in self.reads(0, (start, stop)))
            band = x.narrow(dim, low, min(high, x.shape[dim]) - low)
            found = self._summed(band, [(start, stop), *others], [low + starts[0], *starts[1:]])
            if memory is None:
                bands.append(found)
            else:
                memory.narrow(dim, start - first, stop - start).copy_(found)
        return torch.cat(bands, dim) if memory is None else memory

    def _summed(
        self, x: torch.Tensor, spans: Sequence[Span], starts: Sequence[int]
    ) -> torch.Tensor:
        """The weighted sum of the taps, along one dimension after another."""
        channels_last = self.node.axes.plain and x.ndim == len(self.places) + 2
        if channels_last:  # then the picked positions are runs of memory
            x = x.movedim(1, -1)
        for number in reversed(range(len(spans))):
            span, taps = slice(*spans[number]), self.taps(number)
            at = number - len(self.places) - channels_last
            result: Any = None
            for share, source, read in zip(taps.shares, taps.sources, taps.read, strict=True):
                local = (source[span] - starts[number]).clamp(0, x.shape[at] - 1)
                picked = x.index_select(at, local.to(x.device))
                along = share[span].to(x.device).reshape(-1, *[1] * (-at - 1))
                if not (here := read[span]).all():  # fewer are read near a border; 0 * inf is NaN
                    unread = ~here.to(x.device).reshape(along.shape)
                    picked = picked.masked_fill(unread, 0.0)
                if result is None:
                    result = picked if len(taps.shares) == 1 else picked * along
                else:
                    result = result.addcmul_(picked, along)
            x = result
        x = x.movedim(-1, 1) if channels_last else x
        return x.to(self.node.dtype)


INTERPOLATIONS = """
    upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d
    _upsample_nearest_exact2d _upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d
    upsample_trilinear3d upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa
"""


@rule(*INTERPOLATIONS.split())
def interpolation(node: Node) -> Rule | None:
    """The rule of nearest, linear and cubic interpolation, by size or by factor.

    An antialiased one weighs all positions of a window as wide as the steps between positions.
    """
    count, args = dimensions_of(node.kind), node.args
    where = places(node.operand_axes[0], count)
    rounds = node.kind.endswith("_aa") and not node.dtype.is_floating_point  # pass after pass
    if where is None or rounds:
        return Whole(node)
    if "scale_factors" in args:
        scales = args["scale_factors"] or [None] * count
    else:
        scales = [value for name, value in args.items() if name.startswith("scales")]
    return Interpolation(node, where, args.get("align_corners"), tuple(scales))
