"""How ranks that MPI has brought together meet for torch.distributed, at a port that is free."""

from __future__ import annotations

import socket
from collections.abc import Callable, Generator, Sequence
from datetime import timedelta

import numpy as np
from mpi4py import MPI
from torch import distributed

from ..errors import DeviceError
from .carriers import NCCL, Gloo, nccl_device
from .torch_dist import Channels

_LONGEST = 512
"""Bytes that a rank can tell the others of itself."""


def rendezvous(
    comm: MPI.Comm, deadline: float, backend: str, local_rank: int
) -> Generator[Callable[[], bool], None, Channels]:
    """Bring all ranks of a communicator together, at a free port of rank 0's host. Collective.

    Yields what is to be waited for.

    Parameters
    ----------
    backend
        ``"gloo"`` or ``"nccl"``.
    local_rank
        Number of the rank among those of its host.

    Returns
    -------
    Channels

    Raises
    ------
    DeviceError
        On all ranks, if NCCL has no GPU for one of them, or two have the same.
    """
    host, store, timeout = socket.gethostname(), None, timedelta(seconds=deadline)
    known = {"world_size": comm.size, "timeout": timeout, "wait_for_workers": False}
    if comm.rank == 0:
        store = distributed.TCPStore("0.0.0.0", 0, is_master=True, **known)
    device, lack = None, ""
    if backend == "nccl":
        try:
            device = nccl_device(local_rank)
        except DeviceError as error:
            lack = str(error)
    port = store.port if store else 0
    every = yield from _told(comm, f"{port}\n{device}\n{host}\n{lack}")
    ports, devices, hosts, lacks = zip(*(each.split("\n", 3) for each in every), strict=True)
    if device is not None or any(lacks):
        refuse(hosts, devices, lacks)
    alone = len(set(hosts)) == 1  # then no name need be known to anybody
    if store is None:
        where = "127.0.0.1" if alone else hosts[0]
        store = distributed.TCPStore(where, int(ports[0]), is_master=False, **known)
    fresh, request = comm.Idup()
    yield request.Test
    if device is not None:
        return Channels(fresh, store, NCCL(deadline, device))
    return Channels(fresh, store, Gloo(deadline, "127.0.0.1" if alone else host))


def _told(comm: MPI.Comm, text: str) -> Generator[Callable[[], bool], None, list[str]]:
    """The texts of all ranks, of which this is one."""
    mine, told = np.zeros(_LONGEST, np.uint8), np.zeros((comm.size, _LONGEST), np.uint8)
    content = text.encode()[:_LONGEST]
    mine[: len(content)] = np.frombuffer(content, np.uint8)
    yield comm.Iallgather(mine, told).Test
    return [row.tobytes().rstrip(b"\0").decode(errors="replace") for row in told]


def refuse(hosts: Sequence[str], devices: Sequence[str], lacks: Sequence[str]) -> None:
    """Refuse ranks that have no GPU, or the same GPU of one host as another.

    Parameters
    ----------
    hosts, devices
        Of each rank.
    lacks
        Why a rank has none; empty where it has one.

    Examples
    --------
    >>> refuse(("a", "a"), ("cuda:0", "cuda:0"), ("", ""))
    Traceback (most recent call last):
    ...
    spnb.errors.DeviceError: ranks 0 and 1 share cuda:0 of a, but NCCL needs a GPU for\
 each: start fewer ranks on a host, or use backend mpi
    """
    first: dict[tuple[str, str], int] = {}
    for rank, (*place, lack) in enumerate(zip(hosts, devices, lacks, strict=True)):
        if lack:
            raise DeviceError(f"rank {rank} on {place[0]}: {lack}")
        other = first.setdefault(tuple(place), rank)
        if other != rank:
            raise DeviceError(
                f"ranks {other} and {rank} share {place[1]} of {place[0]}, but NCCL needs a GPU"
                " for each: start fewer ranks on a host, or use backend mpi"
            )
