"""Connects the ranks of an MPI communicator through torch.distributed, at a free port."""

from __future__ import annotations

import socket
from collections.abc import Callable, Generator, Sequence
from datetime import timedelta
from functools import partial

import numpy as np
from mpi4py import MPI
from torch import distributed

from ..errors import DeviceError
from .carriers import NCCL, Gloo, nccl_device
from .torch_dist import Channels

_TEXT_BYTES = 512
"""Most bytes of the text that each rank sends to all others."""


def rendezvous(
    comm: MPI.Comm, deadline: float, backend: str, local_rank: int, one_host: bool
) -> Generator[Callable[[], bool], None, Channels]:
    """Connect all ranks of a communicator, at a free port of rank 0's host. Collective.

    It yields each condition to wait for.

    Parameters
    ----------
    backend
        ``"gloo"`` or ``"nccl"``.
    local_rank
        Number of the rank among those of its host.
    one_host
        Whether all ranks are on one host; then they listen on 127.0.0.1 alone.

    Returns
    -------
    Channels

    Raises
    ------
    DeviceError
        On all ranks, if NCCL has no GPU for one of them, or two have the same.
    """
    host, timeout = socket.gethostname(), timedelta(seconds=deadline)
    connect = partial(
        distributed.TCPStore, world_size=comm.size, timeout=timeout, wait_for_workers=False
    )
    store = _listening(connect, one_host) if comm.rank == 0 else None
    device, problem = None, ""
    if backend == "nccl":
        try:
            device = nccl_device(local_rank)
        except DeviceError as error:
            problem = str(error)
    port = store.port if store else 0
    every = yield from _allgather_text(comm, f"{port}\n{device}\n{host}\n{problem}")
    ports, devices, hosts, problems = zip(*(each.split("\n", 3) for each in every), strict=True)
    if device is not None or any(problems):
        refuse(hosts, devices, problems)
    if store is None:
        where = "127.0.0.1" if one_host else hosts[0]  # no host name is resolved without need
        store = connect(where, int(ports[0]), is_master=False)
    duplicate, request = comm.Idup()
    yield request.Test
    if device is not None:
        return Channels(duplicate, store, NCCL(deadline, device))
    return Channels(duplicate, store, Gloo(deadline, "127.0.0.1" if one_host else host))


def _listening(
    connect: Callable[..., distributed.TCPStore], one_host: bool
) -> distributed.TCPStore:
    """The store of rank 0, at a free port."""
    if not one_host:
        return connect("0.0.0.0", 0, is_master=True)
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    return connect("127.0.0.1", port, is_master=True, master_listen_fd=server.detach())


def _allgather_text(comm: MPI.Comm, text: str) -> Generator[Callable[[], bool], None, list[str]]:
    """Send this rank's text to all ranks; return the texts of all ranks, in rank order."""
    mine, gathered = np.zeros(_TEXT_BYTES, np.uint8), np.zeros((comm.size, _TEXT_BYTES), np.uint8)
    content = text.encode()[:_TEXT_BYTES]
    mine[: len(content)] = np.frombuffer(content, np.uint8)
    yield comm.Iallgather(mine, gathered).Test
    return [row.tobytes().rstrip(b"\0").decode(errors="replace") for row in gathered]


def refuse(hosts: Sequence[str], devices: Sequence[str], problems: Sequence[str]) -> None:
    """Refuse ranks without a GPU, and ranks that share a GPU.

    Parameters
    ----------
    hosts, devices
        The host and the GPU of each rank.
    problems
        Why a rank has no GPU; empty where it has one.

    Examples
    --------
    >>> refuse(("a", "a"), ("cuda:0", "cuda:0"), ("", ""))
    Traceback (most recent call last):
    ...
    spnb.errors.DeviceError: ranks 0 and 1 share cuda:0 of a, but NCCL needs a GPU for\
 each: start fewer ranks on a host, or use backend mpi
    """
    first: dict[tuple[str, str], int] = {}
    for rank, (host, device, problem) in enumerate(zip(hosts, devices, problems, strict=True)):
        if problem:
            raise DeviceError(f"rank {rank} on {host}: {problem}")
        other = first.setdefault((host, device), rank)
        if other != rank:
            raise DeviceError(
                f"ranks {other} and {rank} share {device} of {host}, but NCCL needs a GPU"
                " for each: start fewer ranks on a host, or use backend mpi"
            )
