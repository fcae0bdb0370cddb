"""Convolutions in half precision, on CPUs whose hardware has none.

There, PyTorch's half-precision convolutions are dozens of times slower than those in fp32.  So they
are computed in fp32, and each result is rounded to half precision.  The numbers stay the same:
PyTorch sums in fp32 in either case.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
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


def convolving(
    dtypes: Collection[torch.dtype], device: torch.device = CPU
) -> AbstractContextManager[Any]:
    """A context in which convolutions are as fast as the device allows.

    Parameters
    ----------
    dtypes
        Precisions of the convolutions.
    device
        Where they are computed.

    Examples
    --------
    >>> with torch.inference_mode(), convolving({torch.float16}):
    ...     torch.nn.Conv2d(1, 1, 3).half()(torch.ones(1, 1, 5, 5).half()).dtype
    torch.float16
    """
    slow = frozenset(dtype for dtype in dtypes if device == CPU and not convolves(dtype))
    return _InSingle(slow) if slow else nullcontext()


class _InSingle(TorchDispatchMode):
    """Convolutions of some precisions are computed in fp32."""

    def __init__(self, dtypes: frozenset[torch.dtype]):
        super().__init__()
        self.dtypes = dtypes

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func.overloadpacket not in CONVOLUTIONS or args[0].dtype not in self.dtypes:
            return func(*args, **(kwargs or {}))
        single = [a.float() if isinstance(a, torch.Tensor) else a for a in args]
        result, dtype = func(*single), args[0].dtype
        if isinstance(result, tuple):
            return tuple(part if part is None else part.to(dtype) for part in result)
        return result.to(dtype)
