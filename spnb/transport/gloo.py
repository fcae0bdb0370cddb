"""Messages over torch.distributed's gloo, between ranks that MPI has brought together.

MPI stays what ranks meet and hear of failures by; gloo carries the tensors, over TCP.  Its waits
block, and it does not tell whether a message is there, so each wait is a thread's, and the rank
asks the thread.
"""

from __future__ import annotations

import queue
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from mpi4py import MPI
from torch import distributed

from . import PeerFailed

_NAME = 256  # bytes of a host's name, and a port


class Work:
    """A message on its way: what gloo has to do for it, and whether that is done.

    Attributes
    ----------
    source
        The rank at its other end.
    tag
        Of the message.
    buffer
        The tensor, which must live as long as this.
    arrives
        Whether it is received, rather than sent.
    """

    def __init__(
        self,
        source: int,
        tag: int,
        buffer: torch.Tensor,
        arrives: bool,
        work: distributed.Work,
    ):
        self.source, self.tag, self.buffer, self.arrives = source, tag, buffer, arrives
        self._work, self._finished, self._error = work, threading.Event(), None

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
        self._threads: list[threading.Thread] = []
        self._unfinished: dict[Work, None] = {}
        self._begun: Counter[tuple[int, int, bool]] = Counter()

    def send(self, target: int, tag: int, tensor: torch.Tensor) -> Work:
        """Start sending a contiguous tensor."""
        work = self.group.send([_bytes(tensor)], target, tag)
        return self._begin(Work(target, tag, tensor, False, work))

    def receive(self, source: int, tag: int, buffer: torch.Tensor) -> Work:
        """Start receiving into a contiguous tensor."""
        work = self.group.recv([_bytes(buffer)], source, tag)
        return self._begin(Work(source, tag, buffer, True, work))

    def _begin(self, work: Work) -> Work:
        self._begun[work.source, work.tag, work.arrives] += 1
        self._unfinished[work] = None
        self._waiting.put(work)
        if not self._idle.acquire(blocking=False):
            self._threads.append(threading.Thread(target=self._wait, daemon=True))
            self._threads[-1].start()
        return work

    def _wait(self) -> None:
        while (work := self._waiting.get()) is not None:
            work.wait()
            del self._unfinished[work]
            self._idle.release()

    def leave(self, comm: MPI.Comm) -> Iterator[Callable[[], bool]]:
        """End it, when all ranks do. Collective; yields what is to be waited for.

        A thread cannot be called back from what a rank that failed never sent, or never took, and
        would abort the process at its end.  So it is sent now, or taken: ranks tell each other
        what they wait for, and how many such messages they have begun.
        """
        mine: dict[tuple[int, int, bool], list[int]] = {}
        for work in list(self._unfinished):
            mine.setdefault((work.source, work.tag, work.arrives), []).append(work.buffer.nbytes)
        told = [(key, self._begun[key], sizes) for key, sizes in mine.items()]
        for rank, theirs in enumerate(comm.allgather(told)):
            for (peer, tag, arrives), count, sizes in theirs:
                missing = count - self._begun[rank, tag, not arrives] if peer == comm.rank else 0
                for size in sizes[len(sizes) - missing :] if missing > 0 else []:
                    answer = self.send if arrives else self.receive
                    answer(rank, tag, torch.empty(size, dtype=torch.uint8))
        yield lambda: not self._unfinished
        for _ in self._threads:
            self._waiting.put(None)
        yield lambda: not any(thread.is_alive() for thread in self._threads)
        yield comm.Ibarrier().Test


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
