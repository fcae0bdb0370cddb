"""The device that a rank computes on: the CPU, or one of the GPUs of its host."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch

from ..errors import DeviceError

CPU = torch.device("cpu")

DEVICES = ("cpu", "cuda")
"""Kinds of devices."""


def device_of(kind: str, local_rank: int = 0) -> torch.device:
    """The device of a rank; the ranks of a host take its GPUs in turn.

    Parameters
    ----------
    kind
        One of `DEVICES`.
    local_rank
        Number of the rank among those of its host.

    Raises
    ------
    DeviceError
        If the host has no GPU that PyTorch can use.

    Examples
    --------
    >>> device_of("cpu", local_rank=3)
    device(type='cpu')
    """
    if kind == "cpu":
        return CPU
    count = torch.cuda.device_count()
    if not count:
        raise DeviceError(
            f"device is {kind}, but PyTorch {torch.__version__} sees no GPU here: use device cpu,"
            " or install PyTorch for the GPU's driver"
        )
    return torch.device(kind, local_rank % count)


def computing_on(device: torch.device) -> AbstractContextManager[Any]:
    """A context in which new tensors are on a device."""
    if device.type == "cpu":
        return nullcontext()
    stack = ExitStack()
    stack.enter_context(device)
    if device.type == "cuda":
        stack.enter_context(torch.cuda.device(device))
    return stack


def compute_exactly() -> None:
    """Make GPUs compute in full fp32, with the same algorithms in every run.

    By default PyTorch rounds the operands of fp32 convolutions on a GPU to 10 bits (TF32), and may
    choose another algorithm for a tile than for the whole image.  Their results would then differ.
    """
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
