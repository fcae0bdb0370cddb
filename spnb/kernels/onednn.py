"""Convolutions that oneDNN computes in one call with an addition and an activation.

oneDNN is the library that PyTorch computes convolutions with on CPUs.  PyTorch promises nothing of
the operators that reach it (``torch.ops.mkldnn``): they are tried once in each process, and where
they are missing or wrong, a convolution, an addition and an activation are computed one by one.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.nn import functional

from .nan_watch import is_clean, within

Convolve = Callable[..., torch.Tensor]
"""Computes a fused convolution of its input, and of what is added, if anything is."""

ACTIVATIONS = {
    "relu": ("relu", ()),
    "silu": ("swish", ()),
    "sigmoid": ("sigmoid", ()),
    "tanh": ("tanh", ()),
    "hardswish": ("hardswish", ()),
    "leaky_relu": ("leaky_relu", ("negative_slope",)),
    "hardtanh": ("hardtanh", ("min_val", "max_val")),
}
"""By ATen operator: oneDNN's name of the activation, and the options that it takes, in order."""

AFTER_ADDITION = ("relu",)
"""Activations that oneDNN also computes after an addition."""


LOSING_NAN = ("relu", "hardtanh")
"""Activations that oneDNN computes as a maximum, in which NaN becomes a number."""

LARGEST = torch.finfo(torch.float32).max / 4
"""Sums of two numbers up to this one, and their rounding, stay finite."""


@dataclass(frozen=True)
class FusedConvolution:
    """``activation(convolution(input) + other)``, in one call where oneDNN has it.

    Parameters
    ----------
    kind
        ATen's name of the convolution: ``"conv2d"`` or ``"conv3d"``.
    stride, padding, dilation
        One number for each spatial dimension.
    groups
        Groups of channels that are convolved separately.
    adds
        Whether there is an ``other``.
    activation
        ATen's name of the activation, or None.
    options
        Arguments of the activation by name.

    Examples
    --------
    >>> convolution = FusedConvolution("conv2d", (1, 1), (0, 0), (1, 1), activation="relu")
    >>> weight = torch.full((1, 1, 1, 1), -2.0)
    >>> convolution.bind(weight, None)(torch.ones(1, 1, 1, 2)).tolist()
    [[[[0.0, 0.0]]]]
    """

    kind: str
    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    groups: int = 1
    adds: bool = False
    activation: str | None = None
    options: Mapping[str, Any] | None = None

    def reorder(self, weight: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """A weight in the memory order that oneDNN prefers for an input of a shape.

        Parameters
        ----------
        weight
            ``(channels out, channels in / groups, *kernel)``, fp32 on the CPU; or as this method
            gave it for another shape.
        shape
            ``(batch, channels, *spatial)`` of the input, without padding.

        Returns
        -------
        torch.Tensor
            An opaque tensor that only `bind` takes; the given one if it has the order already.
        """
        space = [max(n, k) for n, k in zip(shape[2:], weight.shape[2:], strict=True)]
        ordered = torch.ops.mkldnn._reorder_convolution_weight(
            weight.to_dense() if weight.is_mkldnn else weight.contiguous(),
            list(self.padding),
            list(self.stride),
            list(self.dilation),
            self.groups,
            [max(1, shape[0]), shape[1], *space],
        )
        return weight if weight.is_mkldnn and _same_order(weight, ordered) else ordered

    def bind(
        self, weight: torch.Tensor, bias: torch.Tensor | None, overwrites: bool = False
    ) -> Convolve:
        """The call with its weights.

        Parameters
        ----------
        weight
            In ordinary memory order, or as `reorder` gave it: then oneDNN computes all in one call.
        bias
            ``(channels out,)``, or None.
        overwrites
            Whether the result may be written over ``other``.
        """
        if not weight.is_mkldnn:
            return self._one_by_one(weight, bias)
        call = self._in_one_call(weight, bias, overwrites)
        return self._keeping_nan(call, weight, bias) if self.activation in LOSING_NAN else call

    def _keeping_nan(
        self, call: Convolve, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> Convolve:
        """A call in which NaN stays NaN: operands that could make one are computed one by one.

        No sum of a convolution leaves the range of fp32 where its input is at most ``limit``.
        In a watched run that is clean, operands are not looked through.
        """
        per_channel = weight.to_dense().abs().flatten(1).sum(1)
        gain = float(per_channel.max())
        offset = 0.0 if bias is None else float(bias.abs().max())
        limit = (LARGEST - offset) / max(gain, 1.0)  # not above zero if a weight is infinite or NaN
        # `spnb.kernels.preallocated` takes the next new tensor for the convolution's result.
        bounds = torch.empty(2, device="cpu")

        def keeping_nan(x: torch.Tensor, *other: torch.Tensor) -> torch.Tensor:
            small = is_clean() or (
                within(x, limit, bounds) and all(within(t, LARGEST, bounds) for t in other)
            )
            return (call if small else self._one_by_one(weight.to_dense(), bias))(x, *other)

        return keeping_nan

    def _in_one_call(
        self, weight: torch.Tensor, bias: torch.Tensor | None, overwrites: bool
    ) -> Convolve:
        name, takes = ACTIVATIONS[self.activation] if self.activation else (None, ())
        scalars = [(self.options or {})[option] for option in takes]
        windows = (list(self.padding), list(self.stride), list(self.dilation), self.groups)
        fixed: tuple[Any, ...] = (weight, bias, *windows)
        if not self.adds:
            pointwise = torch.ops.mkldnn._convolution_pointwise.default
            fixed += (name or "none", scalars, None)
            return lambda x: pointwise(x, *fixed)
        fixed += ("add", 1.0, name, scalars, None)
        if overwrites:
            onto_other = torch.ops.mkldnn._convolution_pointwise_.binary
            return lambda x, other: onto_other(other, x, *fixed)
        with_other = torch.ops.mkldnn._convolution_pointwise.binary
        return lambda x, other: with_other(x, other, *fixed)

    def _one_by_one(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Convolve:
        convolution = getattr(torch.ops.aten, self.kind).default
        windows = (list(self.stride), list(self.padding), list(self.dilation), self.groups)
        activate = getattr(torch.ops.aten, self.activation).default if self.activation else None
        options = self.options or {}

        def call(x: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
            result = convolution(x, weight, bias, *windows)
            if other is not None:
                result = result + other
            return activate(result, **options) if activate else result

        return call


def _same_order(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether a weight lies in memory twice in the same order; no, if PyTorch does not tell."""
    of_mkldnn = torch.ops.mkldnn
    try:
        found = [(of_mkldnn.data_ptr(each), of_mkldnn._nbytes(each)) for each in (one, other)]
    except AttributeError:
        return False
    return ctypes.string_at(*found[0]) == ctypes.string_at(*found[1])


def fuses(weight: torch.Tensor) -> bool:
    """Whether oneDNN computes a fused convolution with this weight on this machine.

    It does so in fp32 on the CPU, unless ``torch.backends.mkldnn`` is switched off.
    """
    on_cpu = weight.dtype == torch.float32 and weight.device.type == "cpu"
    backend = torch.backends.mkldnn
    return on_cpu and backend.is_available() and bool(backend.enabled) and _fuses_rightly()


@cache
def _fuses_rightly() -> bool:
    """Whether each of the three operators computes the same as one call after another does."""
    x = torch.linspace(-1, 1, 32, device="cpu").view(1, 2, 4, 4)
    weight = torch.linspace(-1, 1, 36, device="cpu").view(2, 2, 3, 3)
    for adds, overwrites in ((False, False), (True, False), (True, True)):
        convolution = FusedConvolution(
            "conv2d", (1, 1), (1, 1), (1, 1), adds=adds, activation="relu"
        )
        try:
            call = convolution.bind(convolution.reorder(weight, x.shape), None, overwrites)
            found = call(x, x.clone()) if adds else call(x)
        except (AttributeError, RuntimeError, TypeError):
            return False
        expected = functional.relu(functional.conv2d(x, weight, padding=1) + (x if adds else 0))
        if not torch.allclose(found, expected, atol=1e-5):
            return False
    return True


def convolves(dtype: torch.dtype) -> bool:
    """Whether oneDNN convolves in a precision on this machine: in half, only on some processors.

    Where PyTorch cannot say so, the answer is no.
    """
    names = {
        torch.float16: "_is_mkldnn_fp16_supported",
        torch.bfloat16: "_is_mkldnn_bf16_supported",
    }
    if dtype not in names:
        return True
    try:
        return bool(getattr(torch.ops.mkldnn, names[dtype])())
    except (AttributeError, RuntimeError):
        return False
