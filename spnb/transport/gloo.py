"""Messages over torch.distributed's gloo, between ranks that MPI has brought together.

MPI stays what ranks meet and hear of failures by; gloo carries the tensors, over TCP.  Its waits
block, and it does not tell whether a message is there, so each wait is a thread's, and the rank
asks the thread.
"""

from __future__ import annotations

import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, NoReturn

import numpy as np
import torch
from mpi4py import MPI
from torch import distributed

from . import PeerFailed

_NAME = 256  # bytes of a host's name, and a port

_left: list[Gloo] = []
"""Groups that a thread waits in, for what never comes: such a wait cannot be ended."""


class Work:
    """A message on its way: what gloo has to do for it, and whether that is done.

    Attributes
    ----------
    source
        The rank at its other end.
    buffer
        The tensor, which must live as long as this.
    """

    def __init__(self, source: int, work: distributed.Work, buffer: torch.Tensor):
        self.source, self.buffer, self._work = source, buffer, work
        self._finished, self._error = threading.Event(), None

    def wait(self) -> None:
        """In a thread: until it is done, or has failed."""
        try:
            self._work.wait()
        except RuntimeError as error:
            self._error = error
        self._finished.set()

    def done(self) -> bool:
        """Whether it is done.

        Raises
        ------
        PeerFailed
            If the connection is lost.
        """
        if not self._finished.is_set():
            return False
        if self._error is not None:
            reason = str(self._error).splitlines()[0]
            raise PeerFailed(f"rank {self.source} cannot be reached any more: {reason}")
        return True


class Gloo:
    """A process group, and threads that wait for its messages.

    Parameters
    ----------
    group
        Of all ranks.
    store
        Where they met; it lives as long as they do.
    """

    def __init__(self, group: distributed.ProcessGroupGloo, store: distributed.Store):
        self.group, self.store = group, store
        self._waiting: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._unfinished: set[Work] = set()
        self._threads = 0

    def leave(self) -> None:
        """Let go of it; nothing is sent or received any more."""
        for _ in range(self._threads):
            self._waiting.put(None)
        if self._unfinished:
            _left.append(self)

    @property
    def stuck(self) -> bool:
        """Whether a thread waits in it, for a rank that failed perhaps."""
        return bool(self._unfinished)

    def send(self, target: int, tag: int, tensor: torch.Tensor) -> Work:
        """Start sending a contiguous tensor."""
        return self._begin(target, self.group.send([_bytes(tensor)], target, tag), tensor)

    def receive(self, source: int, tag: int, buffer: torch.Tensor) -> Work:
        """Start receiving into a contiguous tensor."""
        return self._begin(source, self.group.recv([_bytes(buffer)], source, tag), buffer)

    def _begin(self, peer: int, work: distributed.Work, tensor: torch.Tensor) -> Work:
        found = Work(peer, work, tensor)
        self._unfinished.add(found)
        self._waiting.put(found)
        if not self._idle.acquire(blocking=False):
            self._threads += 1
            threading.Thread(target=self._wait, daemon=True).start()
        return found

    def _wait(self) -> None:
        while (work := self._waiting.get()) is not None:
            work.wait()
            self._unfinished.discard(work)
            self._idle.release()


def end_process(code: int, current: Gloo | None) -> NoReturn:
    """End this process; the interpreter cannot, while a thread waits in gloo: it would abort."""
    if not _left and not (current and current.stuck):
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    MPI.Finalize()
    if code:
        time.sleep(0.5)  # launchers kill whoever is left when one ends with an error
    os._exit(code)


def meet(comm: MPI.Comm, deadline: float) -> Iterator[Callable[[], bool]]:
    """Bring all ranks of a communicator together, at a free port of rank 0's host. Collective.

    Yields what is to be waited for.

    Returns
    -------
    Gloo
    """
    host, store, timeout = socket.gethostname(), None, timedelta(seconds=deadline)
    known = {"world_size": comm.size, "timeout": timeout, "wait_for_workers": False}
    if comm.rank == 0:
        store = distributed.TCPStore("0.0.0.0", 0, is_master=True, **known)
    mine = np.zeros(_NAME, np.uint8)
    text = f"{host}:{store.port if store else 0}".encode()[:_NAME]
    mine[: len(text)] = np.frombuffer(text, np.uint8)
    every = np.zeros((comm.size, _NAME), np.uint8)
    yield comm.Iallgather(mine, every).Test
    texts = [row.tobytes().rstrip(b"\0").decode() for row in every]
    hosts, port = [text.rpartition(":")[0] for text in texts], int(texts[0].rpartition(":")[2])
    alone = len(set(hosts)) == 1  # then no name need be known to anybody
    if store is None:
        where = "127.0.0.1" if alone else hosts[0]
        store = distributed.TCPStore(where, port, is_master=False, **known)
    options: Any = distributed.ProcessGroupGloo._Options()
    device = distributed.ProcessGroupGloo.create_device(hostname="127.0.0.1" if alone else host)
    options._devices, options._timeout = [device], timeout
    return Gloo(distributed.ProcessGroupGloo(store, comm.rank, comm.size, options), store)


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    """A contiguous tensor's memory, whatever its type."""
    return tensor.reshape(-1).view(torch.uint8)
