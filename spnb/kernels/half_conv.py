"""Convolutions in half precision, on CPUs whose hardware has none.

There, PyTorch's half-precision convolutions are dozens of times slower than those in fp32.  So they
are computed in fp32, and each result is rounded to half precision.  The numbers stay the same:
PyTorch sums in fp32 in either case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from .compat import OpOverload, TorchDispatchMode
from .devices import CPU
from .onednn import convolves

aten = torch.ops.aten
CONVOLUTIONS = {aten.convolution, aten.conv1d, aten.conv2d, aten.conv3d}
CONVOLUTIONS |= {aten.conv_transpose1d, aten.conv_transpose2d, aten.conv_transpose3d}
CONVOLUTIONS |= {aten.convolution_backward}

HALVES = (torch.float16, torch.bfloat16)


def convolving(dtype: torch.dtype, device: torch.device = CPU) -> AbstractContextManager[Any]:
    """A context in which convolutions in a precision are as fast as the device allows.

    Parameters
    ----------
    dtype
        Precision of the convolutions.
    device
        Where they are computed.

    Examples
    --------
    >>> with torch.inference_mode(), convolving(torch.float16):
    ...     torch.nn.Conv2d(1, 1, 3).half()(torch.ones(1, 1, 5, 5).half()).dtype
    torch.float16
    """
    return _InSingle(dtype) if device == CPU and not convolves(dtype) else nullcontext()


class _InSingle(TorchDispatchMode):
    """Convolutions of one precision are computed in fp32."""

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func.overloadpacket not in CONVOLUTIONS or args[0].dtype != self.dtype:
            return func(*args, **(kwargs or {}))
        single = [a.float() if isinstance(a, torch.Tensor) else a for a in args]
        result = func(*single)
        if isinstance(result, tuple):
            return tuple(part if part is None else part.to(self.dtype) for part in result)
        return result.to(self.dtype)
