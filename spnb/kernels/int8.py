"""Convolutions of 8-bit numbers, and the rounding to them.

A number ``x`` is stored as ``round(x / scale) + zero`` in 0 to 255.  The products of two such
numbers are whole, and so is their sum in 32 bits: it is the same in whatever order a kernel adds
up, on a tile as on the whole image.  So tiled runs in int8 equal untiled ones to the last bit.

oneDNN computes them, through operators of which PyTorch promises nothing (``torch.ops.onednn``).
They are tried once in each process; where they are missing or wrong, sums are added up in fp64.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from .onednn import FusedConvolution, fuses

LARGEST = 255
"""The largest number in 8 bits."""

PIECE = 2**16
"""Numbers that are rounded at a time."""


@torch.library.custom_op("spnb::quantize", mutates_args=())
def quantize(input: torch.Tensor, scale: float, zero: int, most: int) -> torch.Tensor:
    """Round numbers to whole multiples of ``scale``, in 8 bits.

    Parameters
    ----------
    input
        Numbers in fp32, of any shape.
    scale
        Difference between two neighbouring numbers.
    zero
        What stands for 0.
    most
        Largest result: `LARGEST`, or less.

    Returns
    -------
    torch.Tensor
        Of the same shape, uint8.

    Raises
    ------
    ValueError
        If a number is NaN, for which 8 bits have no place.

    Examples
    --------
    >>> quantize(torch.tensor([-1.0, 0.0, 0.5, 9.0]), 0.1, 10, 100)
    tensor([  0,  10,  15, 100], dtype=torch.uint8)
    """
    result = torch.empty_like(input, dtype=torch.uint8)
    sums = torch.zeros((), device="cpu")
    for numbers, rounded in _pieces(input, result):
        numbers = (numbers * (1 / scale)).round_().add_(zero).clamp_(0, most)
        sums += numbers.sum()  # NaN if one of them is
        rounded.copy_(numbers)
    if bool(sums.isnan()):
        raise ValueError(
            "a value is NaN, for which int8 has no number: give an image without NaN, or another"
            " precision"
        )
    return result


@torch.library.custom_op("spnb::dequantize", mutates_args=())
def dequantize(input: torch.Tensor, scale: float, zero: int) -> torch.Tensor:
    """The numbers that 8-bit ones stand for, in fp32.

    >>> dequantize(torch.tensor([10, 15], dtype=torch.uint8), 0.5, 10)
    tensor([0.0000, 2.5000])
    """
    result = torch.empty_like(input, dtype=torch.float32)
    for rounded, numbers in _pieces(input, result):
        numbers.copy_(rounded).sub_(zero).mul_(scale)
    return result


def _pieces(one: torch.Tensor, other: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Two tensors of one shape, in pieces that stay in a core's cache from call to call."""
    if one.numel() > PIECE and one.stride() == other.stride():  # without gaps, as the new one is
        flat = [t.as_strided((t.numel(),), (1,)) for t in (one, other)]
        yield from zip(*(t.split(PIECE) for t in flat), strict=True)
    elif one.numel():
        yield one, other


@dataclass(frozen=True)
class Int8Convolution:
    """``relu(convolution(x) + other)`` of 8-bit numbers, and the rounding of the result.

    Parameters
    ----------
    stride, padding, dilation
        One number for each spatial dimension; the padding stands for 0.
    groups
        Groups of channels that are convolved separately.
    x_scale, x_zero
        Scale of the input, and what stands for 0 in it.
    other_scale, other_zero
        The same of what is added, if anything is.
    relu
        Whether negative results become 0.
    scale, zero
        The same of the result; without a scale, the result is in fp32.
    most
        Largest number of the result.
    """

    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    groups: int
    x_scale: float
    x_zero: int
    other_scale: float
    other_zero: int
    relu: bool
    scale: float | None
    zero: int
    most: int

    def pack(
        self, weight: torch.Tensor, weight_scale: torch.Tensor, shape: Sequence[int]
    ) -> torch.Tensor:
        """A weight in the memory order that oneDNN prefers for an input of a shape.

        Parameters
        ----------
        weight
            ``(channels out, channels in / groups, *kernel)``, int8.
        weight_scale
            ``(channels out,)``, fp32.
        shape
            ``(batch, channels, *spatial)`` of the input.

        Returns
        -------
        torch.Tensor
            An opaque tensor that only `bind` takes.
        """
        space = [max(n, k) for n, k in zip(shape[2:], weight.shape[2:], strict=True)]
        return torch.ops.onednn.qconv_prepack(
            weight.contiguous(),
            *(weight_scale, self.x_scale, self.x_zero),
            *(list(self.stride), list(self.padding), list(self.dilation), self.groups),
            [max(1, shape[0]), shape[1], *space],
        )

    def bind(
        self, weight: torch.Tensor, weight_scale: torch.Tensor, bias: torch.Tensor | None
    ) -> Callable[..., torch.Tensor]:
        """The call with its weights: a function of the input, and of what is added.

        Parameters
        ----------
        weight
            In ordinary memory order, or as `pack` gave it: then oneDNN computes all in one call.
        weight_scale
            ``(channels out,)``, fp32.
        bias
            ``(channels out,)``, fp32, or None.
        """
        if not weight.is_mkldnn:
            return lambda x, other=None: self._in_fp64(x, other, weight, weight_scale, bias)
        zeros = torch.zeros(len(weight_scale), dtype=torch.int32, device="cpu")
        windows = (list(self.stride), list(self.padding), list(self.dilation), self.groups)
        to = (1.0, 0, torch.float32)
        if self.scale is not None:
            to = (self.scale, self.zero, torch.uint8)
        activation: tuple[Any, ...] = ("relu" if self.relu else "none", [], "")
        weights = (self.x_scale, self.x_zero, weight, weight_scale, zeros)
        alone = torch.ops.onednn.qconv_pointwise.default
        onto = torch.ops.onednn.qconv2d_pointwise.binary

        def call(x: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
            if other is None:
                found = alone(x, *weights, bias, *windows, *to, *activation)
            else:  # it writes the result over what is added
                sum_of = (self.other_scale, self.other_zero, "sum", 1.0)
                copied = other.clone(memory_format=torch.channels_last)
                found = onto(x, *weights, copied, bias, *windows, *to, *sum_of, *activation)
            return self._clamped(found)

        return call

    def _clamped(self, result: torch.Tensor) -> torch.Tensor:
        rounded = self.scale is not None and self.most < LARGEST
        return result.clamp_(max=self.most) if rounded else result

    def _in_fp64(
        self,
        x: torch.Tensor,
        other: torch.Tensor | None,
        weight: torch.Tensor,
        weight_scale: torch.Tensor,
        bias: torch.Tensor | None,
    ) -> torch.Tensor:
        """The same, with sums in fp64: they are of whole numbers, and exact."""
        channels, count = (-1, *[1] * len(self.stride)), len(self.stride)
        sums = torch.ops.aten.convolution(
            *(x.to(torch.float64) - self.x_zero, weight.to(torch.float64), None),
            *(list(self.stride), list(self.padding), list(self.dilation)),
            *(False, [0] * count, self.groups),
        )
        result = sums.to(torch.float32) * (weight_scale * self.x_scale).view(channels)
        if bias is not None:
            result = result + bias.view(channels)
        if other is not None:
            result = result + dequantize(other, self.other_scale, self.other_zero)
        if self.relu:
            result = result.relu()
        return result if self.scale is None else quantize(result, self.scale, self.zero, self.most)


CONV_INT8 = """(
    Tensor input, Tensor weight, Tensor weight_scale, Tensor? bias, Tensor? other,
    int[] stride, int[] padding, int[] dilation, int groups, float x_scale, int x_zero,
    float other_scale, int other_zero, bool relu, float? scale, int zero, int most
) -> Tensor"""
"""Arguments of `conv_int8`: tensors, then those of an `Int8Convolution`."""


@torch.library.custom_op("spnb::conv_int8", mutates_args=(), schema=CONV_INT8)
def conv_int8(
    input: torch.Tensor,
    weight: torch.Tensor,
    weight_scale: torch.Tensor,
    bias: torch.Tensor | None,
    other: torch.Tensor | None,
    *settings: Any,
) -> torch.Tensor:
    """An `Int8Convolution` as an operator of PyTorch, for networks to call.

    Parameters
    ----------
    input
        ``(batch, channels, *spatial)``, uint8.
    weight
        ``(channels out, channels in / groups, *kernel)``, int8, in ordinary memory order.
    weight_scale
        ``(channels out,)``, fp32.
    bias
        ``(channels out,)``, fp32, or None.
    other
        What is added, of the result's shape, uint8; or None.
    *settings
        Arguments of the `Int8Convolution`.

    Returns
    -------
    torch.Tensor
        ``(batch, channels out, *spatial)``, uint8, or fp32 without a ``scale``.
    """
    convolution = Int8Convolution(*settings)
    if computes(input.shape, weight.shape):
        weight = convolution.pack(weight, weight_scale, input.shape)
    call = convolution.bind(weight, weight_scale, bias)
    return (call(input) if other is None else call(input, other)).contiguous()


@quantize.register_fake
def _like_quantized(input: torch.Tensor, scale: float, zero: int, most: int) -> torch.Tensor:
    return torch.empty_like(input, dtype=torch.uint8)


@dequantize.register_fake
def _like_dequantized(input: torch.Tensor, scale: float, zero: int) -> torch.Tensor:
    return torch.empty_like(input, dtype=torch.float32)


@conv_int8.register_fake
def _like_convolved(input: torch.Tensor, weight: torch.Tensor, *more: Any) -> torch.Tensor:
    how = Int8Convolution(*more[3:])
    windows = (weight.shape[2:], how.stride, how.padding, how.dilation)
    sizes = zip(input.shape[2:], *windows, strict=True)
    space = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes]
    kind = torch.float32 if how.scale is None else torch.uint8
    return input.new_empty((input.shape[0], weight.shape[0], *space), dtype=kind)


def has_instructions() -> bool:
    """Whether the CPU multiplies and adds 8-bit numbers in one instruction (VNNI, AMX).

    Without one, the sum of two products may overflow, unless one factor has 7 bits.
    """
    names = ("_is_vnni_supported", "_is_amx_tile_supported")
    try:
        return any(bool(getattr(torch.cpu, name)()) for name in names)
    except (AttributeError, RuntimeError):
        return False


@cache
def time_in_int8() -> float:
    """How long a convolution in int8 takes here, as a multiple of the time in fp32."""
    channels, side, turns = 64, 64, 5
    x = torch.zeros(1, channels, side, side, device="cpu")
    weight = torch.zeros(channels, channels, 3, 3, device="cpu")
    windows = ((1, 1), (1, 1), (1, 1))
    single = FusedConvolution("conv2d", *windows)
    in_fp32 = single.bind(single.reorder(weight, x.shape) if fuses(weight) else weight, None)
    whole = Int8Convolution(*windows, 1, 1.0, 0, 1.0, 0, False, 1.0, 0, LARGEST)
    rounded, scale = x.to(torch.uint8), torch.ones(channels, device="cpu")
    small = weight.to(torch.int8)
    packed = whole.pack(small, scale, x.shape) if computes(x.shape, weight.shape) else small
    in_int8 = whole.bind(packed, scale, None)
    times: dict[str, list[float]] = {"fp32": [], "int8": []}
    for _ in range(turns):
        for name, call, given in (("fp32", in_fp32, x), ("int8", in_int8, rounded)):
            start = time.perf_counter()
            call(given)
            times[name].append(time.perf_counter() - start)
    return min(times["int8"]) / min(times["fp32"])


def computes(shape: Sequence[int], weight: Sequence[int]) -> bool:
    """Whether oneDNN convolves 8-bit images of a shape with a weight of a shape."""
    return len(weight) == 4 and 0 not in shape and _computes_rightly()


@cache
def _computes_rightly() -> bool:
    """Whether oneDNN's result is that of sums in fp64, padding and zero points included."""
    x = torch.arange(32, dtype=torch.uint8, device="cpu").view(1, 2, 4, 4) * 3
    weight = torch.arange(-18, 18, dtype=torch.int8, device="cpu").view(2, 2, 3, 3)
    scale = torch.tensor([0.5, 0.25], device="cpu")
    for result, added in ((None, ()), (8.0, ()), (8.0, (x,))):
        convolution = Int8Convolution(
            (1, 1), (1, 1), (1, 1), 1, 0.5, 7, 2.0, 5, True, result, 3, LARGEST
        )
        try:
            packed = convolution.pack(weight, scale, x.shape)
            found = convolution.bind(packed, scale, None)(x, *added)
        except (AttributeError, RuntimeError, TypeError):
            return False
        expected = convolution.bind(weight, scale, None)(x, *added)
        if not torch.allclose(found.float(), expected.float()):
            return False
    return True
