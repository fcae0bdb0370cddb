"""The MPI library: ranks on a host, whether it reads GPUs, and tensors as memory for it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from mpi4py import MPI

from ..kernels.cores import Cores, cores_of_process

FILES = r"/dev/shm/mpich_shm\w+|/tmp/hydra_hwloc_xmlfile_\w+"
"""Names of the files by which MPICH's processes of a host find each other when they start."""


def memory_of(tensor: torch.Tensor) -> Any:
    """The memory of a contiguous tensor, for MPI; as bytes, since numpy has no bfloat16."""
    flat = tensor.resolve_conj().resolve_neg().reshape(-1).view(torch.uint8)
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
    pids, cores
        The process id and the cores of each of them, by its rank in the communicator.
    """

    number: int
    pids: dict[int, int]
    cores: dict[int, Cores]

    def threads(self, rank: int, ranks: int, at_once: int) -> int:
        """The number of threads with which a rank computes on its share of the host's cores.

        Parameters
        ----------
        rank
            The rank.
        ranks
            Number of the ranks that compute; they are the first ones of the communicator.
        at_once
            How many of these compute at the same time.
        """
        others = [cores for other, cores in self.cores.items() if other < ranks and other != rank]
        return self.cores[rank].threads(others, at_once)


def place_on_host(comm: MPI.Comm) -> PlaceOnHost:
    """The place of this rank among the ranks of its host. Collective."""
    host = comm.Split_type(MPI.COMM_TYPE_SHARED)
    every = host.allgather((comm.rank, os.getpid(), cores_of_process()))
    pids, cores = ({rank: each[k] for rank, *each in every} for k in (0, 1))
    found = PlaceOnHost(host.rank, pids, cores)
    host.Free()
    if found.number == 0:
        _remove_names()
    return found


def _remove_names() -> None:
    """Remove the names of MPICH's files, which all ranks of the host have open by now.

    The system frees a file without a name once no process uses it, so nothing stays of ranks that
    are killed.  Found on Linux only; MPICH does not mind.
    """
    found = set[str]()
    with contextlib.suppress(OSError):
        found.update(re.findall(FILES, Path("/proc/self/maps").read_text()))
    with contextlib.suppress(OSError):  # the process that started this rank has the other one
        for opened in Path(f"/proc/{os.getppid()}/fd").iterdir():
            with contextlib.suppress(OSError):
                found.update(re.findall(FILES, os.readlink(opened)))
    for name in found:
        with contextlib.suppress(OSError):
            os.unlink(name)
