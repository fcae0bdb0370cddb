"""Convolutions of one, two and three dimensions."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

from ..ir.axes import Axes, Dim, Factor, axes_in, dim
from ..ir.node import Node, Ref
from ..ir.region import Region, Span
from .base import Call, Local, Padded, Rule, Weights
from .calls import caller
from .core_first import CoreAndBoundary, CoreFirst
from .fallback import Whole
from .registry import rule
from .spatial import HoldsFilter, filter_axes, per_dim, places


@dataclass(frozen=True)
class Convolution(HoldsFilter, CoreFirst):
    """A convolution; one with ``padding="same"`` is run by the overload that takes numbers.

    A weight may be computed, from the whole image or from another one: each tile holds it whole.
    """

    any_layout = True

    def sliding(self, padding: list[int], region: Region | None, weights: Weights) -> Call:
        return caller(self.node, weights, f"aten.{self.node.kind}.default", padding=padding)

    def padded(self, given: Region, region: Region) -> Padded | None:
        found = self.scratch(given, region)
        if found is None:
            return None
        native, _ = self._margins(self._sizes(given), region)
        return Padded(found[1], lambda weights: self.sliding(native, region, weights))


@dataclass(frozen=True)
class FilterOfEachImage(Convolution):
    """A convolution of images side by side, with as many groups: each has a weight of its own.

    Dynamic convolutions are written so: ``F.conv2d(x.flatten(0, 1)[None], weight, groups=batch)``.
    """

    @cached_property
    def axes(self) -> Axes:
        found = super().axes
        channels = (Factor(self.node.shape[self._at], 0),)
        return found.with_dims([*found.dims[: self._at], channels, *found.dims[self._at + 1 :]])

    def padded(self, given: Region, region: Region) -> Padded | None:
        return None

    def place(self, region: Region) -> Hashable:
        return None

    @property
    def _at(self) -> int:
        """Number of the dimension of channels."""
        return len(self.node.shape) - len(self.places) - 1

    def _groups(self, span: Span) -> Span:
        """The groups that compute a span of the result's channels, of all images side by side."""
        size = self.node.shape[self._at] // self.node.args["groups"]
        return (span[0] // size, -(-span[1] // size))

    def gathers(self, operand: int, axis: int) -> bool:
        return False

    def need(self, operand: int, axis: int, span: Span) -> Span:
        if axis != 0:
            return super().need(operand, axis, span)
        first, stop = self._groups(span)
        size = self.node.operand_axes[operand].extent[0] // self.node.args["groups"]
        return (first * size, stop * size)

    def core_and_boundary(self, own: Region, region: Region) -> CoreAndBoundary | None:
        return None

    def sliding(self, padding: list[int], region: Region | None, weights: Weights) -> Call:
        assert region is not None, "the core is not computed first"
        (start, stop), at = region.spans[0], self._at
        groups = self._groups((start, stop))
        size = self.node.shape[at] // self.node.args["groups"]
        op, count = f"aten.{self.node.kind}.default", groups[1] - groups[0]
        plain = caller(self.node, weights, op, padding=padding, groups=count)
        return lambda *given: plain(*given).narrow(at, start - groups[0] * size, stop - start)


@rule("conv1d", "conv2d", "conv3d")
def convolution(node: Node) -> Rule | None:
    """The rule of a convolution; ``padding="same"`` puts an odd zero after (torch.nn.Conv2d)."""
    weight, operand = filter_axes(node), node.operand_axes[0]
    if not isinstance(node.args["input"], Ref) or weight is None:
        return None
    count = len(weight.shape) - 2
    where = places(operand, count)
    of_images = axes_in(operand.dims[-count - 1]) != ()
    if of_images and not _by_image(node, operand.dims[-count - 1]):
        return Whole(node)
    kernel = weight.shape[2:]
    dilation = per_dim(node.args["dilation"], count)
    padding = node.args["padding"]
    if padding == "same":
        padding = tuple(d * (k - 1) // 2 for d, k in zip(dilation, kernel, strict=True))
    elif padding == "valid":
        padding = 0
    stride, padding = per_dim(node.args["stride"], count), per_dim(padding, count)
    if where is not None:
        kind = FilterOfEachImage if of_images else Convolution
        return kind(node, where, kernel, stride, dilation, padding)
    pointwise = {*kernel, *stride} == {1} and not any(padding)
    if pointwise and not of_images and not weight.present:  # of tokens, each by itself
        return Local(node, operand.with_dims(_with_channels(operand.dims, count, weight.shape[0])))
    return Whole(node)


def _with_channels(dims: Sequence[Dim], count: int, channels: int) -> list[Dim]:
    """Dimensions with another number of channels before the last ``count``."""
    found = list(dims)
    found[-count - 1] = dim(channels)
    return found


def _by_image(node: Node, channels: Dim) -> bool:
    """Whether the channels are those of all images, each with groups and filters of its own."""
    filters = [axes.dims[0] for axes in node.operand_axes[1:]]
    alike = all(len(found) == 1 and found[0].axis == 0 for found in filters)
    computed = isinstance(node.args["weight"], Ref) and not node.weights
    return len(channels) == 1 and channels[0].axis == 0 and alike and computed
