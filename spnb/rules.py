"""What each operator reads: the one place that knows about operators.

A rule answers two questions about one call.  *Which part of each operand is needed* to compute a
region of the result; and *how to compute* that region from exactly the needed part.  Both work
axis by axis over ``(batch, *spatial)``.

A window operator (convolution, pooling) that computes ``[o0, o1)`` reads, on each axis, ::

      o0*stride - pad                          (o1-1)*stride - pad + dilation*(kernel-1) + 1
         |<------------------------- need --------------------------->|
    - - -+--------------------------------------------------- - - - - + - -
      pad|  the operand's own extent: other ranks' tiles              |pad

(the receptive field arithmetic of Dumoulin & Visin, *A guide to convolution arithmetic for deep
learning*, 2016).  What falls outside the extent is *this operator's own padding* and is added
here, at the image's border only, and never earlier: that keeps fused halos exact.

Add an operator with `rule`; its function looks at the call and returns a `Rule`:

>>> @rule("mylib.swish")               # a custom operator torch.ops.mylib.swish, elementwise
... def swish(node):
...     return Rule(node)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from .node import Node, Weight, extent_of, index_of, invoke
from .region import Region, Span

Tensors = Sequence[Any]
Weights = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Rule:
    """How one operator call is tiled; the base class is an elementwise operator.

    An operand of extent 1 along an axis is broadcast: all of it is needed.
    """

    node: Node

    gathers = False
    """True for a rule that needs its operands' whole spatial extent."""

    def need(self, operand: int, axis: int, span: Span) -> Span:
        """Span of an operand that a span of the result reads; it may run past the extent."""
        extent = extent_of(self.node.operand_shapes[operand])
        return (0, 1) if extent[axis] == 1 else span

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        """Compute a region of the result.

        Parameters
        ----------
        tensors
            The operands, each exactly the part of its need that lies inside its extent.
        needs
            The needed region of each operand, as `need` gave it.
        region
            The region of the result to compute.
        weights
            Parameters and buffers by name, whole.
        """
        args = self.node.bind(tensors, _LocalWeights(self.node, region, weights))
        return invoke(self.node.op, args)


class _LocalWeights(dict):
    """Weights of an elementwise call, cut where they have spatial axes of their own."""

    def __init__(self, node: Node, region: Region, weights: Weights):
        super().__init__((w.name, weights[w.name]) for w in node.weights)
        for weight in node.weights:
            aligned = (1,) * (len(node.shape) - len(weight.shape)) + weight.shape
            if len(weight.shape) > 2 and math.prod(aligned[2:]) > 1:
                spans = zip(extent_of(aligned), region.spans, strict=True)
                cut = index_of([slice(*span) if n > 1 else slice(0, 1) for n, span in spans])
                self[weight.name] = self[weight.name].reshape(aligned)[cut]


@dataclass(frozen=True)
class Window(Rule):
    """An operator that slides a window over its first operand.

    Parameters
    ----------
    kernel, stride, dilation, padding
        One number for each spatial axis; ``padding`` is that before the first position.
    fill
        What the padding holds.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[int, ...]
    fill: float = 0.0

    def need(self, operand: int, axis: int, span: Span) -> Span:
        if axis == 0:
            return span
        k, s, d, p = (w[axis - 1] for w in (self.kernel, self.stride, self.dilation, self.padding))
        return (span[0] * s - p, (span[1] - 1) * s - p + d * (k - 1) + 1)

    def margins(self, need: Region) -> list[tuple[int, int]]:
        """How far a need runs past the operand's extent, before and after, on each spatial axis."""
        extent = extent_of(self.node.operand_shapes[0])
        return [
            (max(0, min(-a, b - a)), max(0, min(b - n, b - a)))
            for (a, b), n in zip(need.spans[1:], extent[1:], strict=True)
        ]

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        margins = self.margins(needs[0])
        # The operator pads for itself where both sides ask for the same: no copy.
        native = [low if low == high else 0 for low, high in margins]
        rest = [(0, 0) if low == high else (low, high) for low, high in margins]
        x = pad(tensors[0], rest, self.fill)
        return self.slide(self.node.bind([x, *tensors[1:]], weights), native, region)

    def slide(self, args: dict[str, Any], padding: list[int], region: Region) -> Any:
        """Run the operator on an operand that is padded but for a symmetric ``padding``."""
        return invoke(self.node.op, args | {"padding": padding})


def pad(x: torch.Tensor, margins: Sequence[tuple[int, int]], fill: float) -> torch.Tensor:
    """Pad the spatial axes by (before, after); no copy where nothing is to be added."""
    if not any(map(any, margins)):
        return x
    return F.pad(x, [n for margin in reversed(margins) for n in margin], value=fill)


@dataclass(frozen=True)
class MaxPool(Window):
    """Max pooling: with ceil_mode the last window may run past the padding, onto ``-inf``."""

    fill: float = -math.inf

    def slide(self, args: dict[str, Any], padding: list[int], region: Region) -> Any:
        return invoke(self.node.op, args | {"padding": padding, "ceil_mode": False})


@dataclass(frozen=True)
class AvgPool(Window):
    """Average pooling: at the border the divisor depends on where the window lies.

    PyTorch divides by the window's positions inside the image, or inside image and padding with
    ``count_include_pad``; positions that only ``ceil_mode`` reaches count in neither case.
    """

    def slide(self, args: dict[str, Any], padding: list[int], region: Region) -> Any:
        plain = {"padding": padding, "ceil_mode": False, "count_include_pad": True}
        if args.get("divisor_override"):
            return invoke(self.node.op, args | plain)
        mean = invoke(self.node.op, args | plain)
        extent = extent_of(self.node.operand_shapes[0])[1:]
        for axis, (span, n) in enumerate(zip(region.spans[1:], extent, strict=True)):
            k, s, p = self.kernel[axis], self.stride[axis], self.padding[axis]
            low, high = (-p, n + p) if args["count_include_pad"] else (0, n)
            first = torch.arange(*span, device=mean.device) * s - p
            counted = (first + k).clamp(max=high) - first.clamp(min=low)
            if not bool((counted == k).all()):
                shape = [1] * (2 + axis) + [-1] + [1] * (len(extent) - axis - 1)
                mean = mean * (k / counted.to(mean.dtype)).reshape(shape)
        return mean


@dataclass(frozen=True)
class Whole(Rule):
    """An operator that reads the whole spatial extent, each image of the batch for itself."""

    gathers = True

    def need(self, operand: int, axis: int, span: Span) -> Span:
        if axis == 0:
            return super().need(operand, axis, span)
        return (0, extent_of(self.node.operand_shapes[operand])[axis])

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        args = self.node.bind(tensors, weights)
        for name in ("size", "shape"):  # captured with the batch size of the whole image batch
            if name in args and args[name][0] == self.node.shape[0]:
                args[name] = [region.shape[0], *args[name][1:]]
        return invoke(self.node.op, args)


RuleFactory = Callable[[Node], Rule | None]
_registry: dict[str, RuleFactory] = {}


def rule(*kinds: str) -> Callable[[RuleFactory], RuleFactory]:
    """Register a function that makes the rule of a call, or ``None`` where there is none.

    Parameters
    ----------
    kinds
        Operators without overload: ``"conv2d"``, or ``"mylib.op"`` outside ATen.
    """

    def register(factory: RuleFactory) -> RuleFactory:
        _registry.update(dict.fromkeys(kinds, factory))
        return factory

    return register


def rule_of(node: Node) -> Rule | None:
    """The rule of a call; ``None`` where the operator, used like this, has none."""
    namespace, kind, _ = node.op.split(".")
    factory = _registry.get(kind if namespace in ("aten", "_operator") else f"{namespace}.{kind}")
    return factory(node) if factory else None


def home_of(node: Node) -> str | None:
    """The module that gave the rule of a call to an operator outside ATen; ranks import it."""
    namespace, kind, _ = node.op.split(".")
    factory = _registry.get(f"{namespace}.{kind}")
    return factory.__module__ if factory else None


def has_rule(kind: str) -> bool:
    """Whether some use of an operator has a rule."""
    return kind in _registry


# --- operators -----------------------------------------------------------------------------------

ELEMENTWISE = """
    abs add addcmul addcdiv alias bitwise_and bitwise_not bitwise_or ceil celu clamp clamp_max
    clamp_min clone contiguous cos detach detach_ div dropout elu eq erf exp expm1 feature_dropout
    floor ge gelu getitem gt hardsigmoid hardswish hardtanh le leaky_relu lift_fresh_copy log log1p
    log_sigmoid logical_and logical_not logical_or lt maximum minimum mish mul ne neg ones_like pow
    prelu reciprocal relu relu6 round rrelu rsqrt rsub selu sigmoid sign silu sin softplus
    softshrink sqrt square sub tan tanh tanhshrink threshold to type_as where zeros_like _to_copy
    alpha_dropout feature_alpha_dropout hardshrink logit
"""
ALONG_AN_AXIS = "cat chunk concat slice split split_with_sizes softmax log_softmax narrow cumsum"
WHOLE = """
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d
    adaptive_max_pool2d adaptive_max_pool3d expand flatten group_norm instance_norm layer_norm
    linear permute reshape rms_norm scaled_dot_product_attention select squeeze transpose unflatten
    unsqueeze upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d
    upsample_nearest2d upsample_nearest3d upsample_trilinear3d view pixel_shuffle pixel_unshuffle
    conv_transpose1d conv_transpose2d conv_transpose3d roll flip mean sum amax amin matmul
"""


@rule(*ELEMENTWISE.split())
def elementwise(node: Node) -> Rule | None:
    """Every element for itself, with broadcasting; dropout only where it does nothing."""
    if node.args.get("train") or node.args.get("training"):
        return None
    aligned = all(len(shape) in (0, len(node.shape)) for shape in node.operand_shapes)
    return Rule(node) if aligned else None


@rule("batch_norm")
def batch_norm(node: Node) -> Rule | None:
    """With running statistics, elementwise."""
    return None if node.args["training"] else Rule(node)


@rule(*ALONG_AN_AXIS.split())
def along_an_axis(node: Node) -> Rule | None:
    """Over channels every position is for itself; over space the whole extent is needed."""
    axis = node.args["dim"] % max(1, len(node.operand_shapes[0]))
    return (None, Rule(node))[axis] if axis < 2 else Whole(node)


@rule(*WHOLE.split())
def whole(node: Node) -> Rule | None:
    """Operators that mix positions, but never the images of a batch."""
    dims = _numbers(node, "dim", "dims", "dim0", "dim1", "start_dim")
    if node.kind == "permute":
        mixes_batch = dims[0] != 0
    else:
        rank = len(node.operand_shapes[0]) + (node.kind == "unsqueeze")
        reduces_all = node.kind in ("mean", "sum", "amax", "amin", "squeeze", "roll") and not dims
        mixes_batch = reduces_all or any(d % rank == 0 for d in dims)
    shapes = (node.shape, *node.operand_shapes)
    same_batch = all(shape and shape[0] == node.shape[0] for shape in shapes)
    return Whole(node) if same_batch and not mixes_batch else None


def _numbers(node: Node, *names: str) -> list[int]:
    found = []
    for name in names:
        value = node.args.get(name)
        found += value if isinstance(value, (list, tuple)) else [value] * (value is not None)
    return found


def _per_axis(value: int | Sequence[int], axes: int) -> tuple[int, ...]:
    numbers = [value] if isinstance(value, int) else list(value)
    return tuple(numbers * axes if len(numbers) == 1 else numbers)


@rule("conv1d", "conv2d", "conv3d")
def convolution(node: Node) -> Rule | None:
    """Zero padding before and after; ``"same"`` puts the odd one after (torch.nn.Conv2d)."""
    if not isinstance(node.args["weight"], Weight):
        return None
    kernel = node.args["weight"].shape[2:]
    dilation = _per_axis(node.args["dilation"], len(kernel))
    padding = node.args["padding"]
    if padding == "same":
        padding = tuple(d * (k - 1) // 2 for d, k in zip(dilation, kernel, strict=True))
    elif padding == "valid":
        padding = 0
    stride = _per_axis(node.args["stride"], len(kernel))
    return Convolution(node, kernel, stride, dilation, _per_axis(padding, len(kernel)))


@dataclass(frozen=True)
class Convolution(Window):
    """Convolution; the overload with a padding word is run as the one with numbers."""

    def slide(self, args: dict[str, Any], padding: list[int], region: Region) -> Any:
        return invoke(f"aten.{self.node.kind}.default", args | {"padding": padding})


@rule("max_pool1d", "max_pool2d", "max_pool3d")
def max_pool(node: Node) -> Rule | None:
    """Windows over ``-inf`` where they leave the image."""
    return MaxPool(node, *_pool_window(node))


@rule("avg_pool1d", "avg_pool2d", "avg_pool3d")
def avg_pool(node: Node) -> Rule | None:
    """Windows over zeros, divided by what PyTorch counts."""
    return AvgPool(node, *_pool_window(node))


@rule("pad", "constant_pad_nd")
def padding(node: Node) -> Rule | None:
    """Constants around space and channels; a negative number crops (torch.nn.functional.pad)."""
    axes = len(node.shape) - 2
    if len(node.args["pad"]) > 2 * (axes + 1):
        return None
    if node.args.get("mode", "constant") != "constant":
        return Whole(node)
    around = (*node.args["pad"], *(0,) * (2 * (axes + 1) - len(node.args["pad"])))
    before = around[: 2 * axes : 2][::-1]
    ones = (1,) * axes
    return Pad(node, ones, ones, ones, before, node.args["value"] or 0.0, around[2 * axes :])


@dataclass(frozen=True)
class Pad(Window):
    """Padding as an operator of its own: a window of one position, moved by what lies before it."""

    channels: tuple[int, int] = (0, 0)

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        x = pad(tensors[0], self.margins(needs[0]), self.fill)
        spatial = [0] * (2 * (x.ndim - 2))
        return F.pad(x, [*spatial, *self.channels], value=self.fill) if any(self.channels) else x


def _pool_window(node: Node) -> tuple[tuple[int, ...], ...]:
    axes = len(node.shape) - 2
    kernel = _per_axis(node.args["kernel_size"], axes)
    stride = _per_axis(node.args["stride"] or kernel, axes)
    dilation = _per_axis(node.args.get("dilation", 1), axes)
    return kernel, stride, dilation, _per_axis(node.args["padding"], axes)
