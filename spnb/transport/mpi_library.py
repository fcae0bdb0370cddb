"""The MPI library: ranks on a host, whether it reads GPUs, and tensors as memory for it."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from mpi4py import MPI


def memory_of(tensor: torch.Tensor) -> Any:
    """The memory of a contiguous tensor, for MPI; as bytes, since numpy has no bfloat16."""
    flat = tensor.reshape(-1).view(torch.uint8)
    if tensor.is_cpu:
        return flat.numpy()
    torch.cuda.current_stream(tensor.device).synchronize()  # MPI does not wait for CUDA streams
    return flat


@cache
def reads_gpus() -> bool:
    """Whether the MPI library reports that it moves tensors between GPUs itself."""
    library, answer = ctypes.CDLL(MPI.__file__), ctypes.c_int(0)
    if hasattr(library, "MPIX_Query_cuda_support"):  # Open MPI
        return bool(library.MPIX_Query_cuda_support())
    if hasattr(library, "MPIX_GPU_query_support"):  # MPICH, where CUDA is number 0
        return not library.MPIX_GPU_query_support(0, ctypes.byref(answer)) and bool(answer.value)
    return os.environ.get("MV2_USE_CUDA") == "1"  # MVAPICH


@dataclass(frozen=True)
class PlaceOnHost:
    """The place of a rank among the ranks of its host.

    Attributes
    ----------
    number
        Its number among them.
    pids
        The process id of each of them, by its rank in the communicator.
    """

    number: int
    pids: dict[int, int]


def place_on_host(comm: MPI.Comm) -> PlaceOnHost:
    """The place of this rank among the ranks of its host. Collective."""
    host = comm.Split_type(MPI.COMM_TYPE_SHARED)
    found = PlaceOnHost(host.rank, dict(host.allgather((comm.rank, os.getpid()))))
    host.Free()
    return found
