"""Messages over torch.distributed's gloo or NCCL, between ranks that MPI has connected.

MPI still carries barriers and reports of failures.  NCCL has no tags: messages from one rank to
another arrive in the order in which they were sent, and a receive in another order would never end.
Neither gloo nor NCCL can say whether a message has arrived.  So each message is announced over MPI,
and received as soon as its announcement is read: into the buffer that waits for it, or into new
memory::

    rank 0                                        rank 1
    send x, tag 7  ──── MPI: 7, 512 bytes ────►   no buffer for 7 as yet: one is made
                   ════ channel 0 ► 1: x  ════►   x
    send y, tag 3  ──── MPI: 3,  64 bytes ────►   the buffer for 3
                   ════ channel 0 ► 1: y  ════►   y
                                                  a buffer for 7: x is copied there

A channel is one direction between two ranks: a group of these two, made when it is first used, and
a thread that waits for its messages.  So no message on one channel ever waits for another channel.

The groups of gloo and of NCCL are in `spnb.transport.carriers`: the two modules together would have
over 350 lines.
"""

from __future__ import annotations

import queue
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator

import numpy as np
import torch
from mpi4py import MPI
from torch import distributed

from .carriers import Carrier, Work


class _Channel:
    """One direction between two ranks, and the thread that waits for its messages."""

    def __init__(self, carrier: Carrier, store: distributed.Store, rank: int):
        self._carrier, self._store, self._rank = carrier, store, rank
        self._queue: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def put(self, work: Work) -> None:
        """Carry a message, after all earlier ones."""
        self._queue.put(work)

    def _run(self) -> None:
        group: distributed.ProcessGroup | None = None
        lost: Exception | None = None
        while (work := self._queue.get()) is not None:
            try:
                if lost is None:
                    if group is None:
                        group = self._carrier.open(self._store, self._rank)
                    self._carrier.carry(group, self._rank, work)
            except Exception as error:  # raised where the message is waited for
                lost = error
            work.finish(lost)
        if group is not None and lost is None:
            self._carrier.close(group)

    def close(self) -> None:
        """End the thread, after all earlier messages."""
        self._queue.put(None)

    @property
    def closed(self) -> bool:
        """Whether the thread has ended."""
        return not self._thread.is_alive()


class Receipt:
    """A buffer that waits for a message.

    Attributes
    ----------
    source
        The rank that sends it.
    work
        The message; ``None`` before it is announced.
    """

    def __init__(self, channels: Channels, source: int, buffer: torch.Tensor):
        self.source, self.buffer = source, buffer
        self.work: Work | None = None
        self._channels, self._arrived = channels, False

    def done(self) -> bool:
        """Whether it has arrived.

        Raises
        ------
        PeerFailed
            If the connection is lost.
        """
        if self.work is None:
            self._channels.receive_announced()
        if not self._arrived and self.work is not None and self.work.done():
            if self.work.buffer is not self.buffer:
                memory = self.work.buffer.view(self.buffer.dtype).view(self.buffer.shape)
                self.buffer.copy_(memory)
            self._arrived = True
        return self._arrived


class Channels:
    """A rank's channels to and from all others.

    Parameters
    ----------
    comm
        A communicator of all ranks, for announcements; freed by `close`.
    store
        The store through which the two ranks of a channel connect; it lives as long as they do.
    carrier
        Carries tensors.
    """

    def __init__(self, comm: MPI.Comm, store: distributed.Store, carrier: Carrier):
        self.comm, self.store, self.carrier = comm, store, carrier
        self._channels: dict[tuple[int, int], _Channel] = {}
        self._posted: dict[tuple[int, int], deque[Receipt]] = defaultdict(deque)
        self._unclaimed: dict[tuple[int, int], deque[Work]] = defaultdict(deque)
        self._works: list[Work] = []  # those that may not be complete yet
        self._announced: list[tuple[MPI.Request, np.ndarray]] = []
        self._sent_to = np.zeros(comm.size, np.int64)  # announcements
        self._read = 0  # announcements

    def send(self, target: int, tag: int, tensor: torch.Tensor) -> None:
        """Start sending a contiguous tensor."""
        self._announced = [each for each in self._announced if not each[0].Test()]
        announcement = np.array([tag, tensor.nbytes])
        self._announced.append((self.comm.Isend(announcement, target), announcement))
        self._sent_to[target] += 1
        self._carry((self.comm.rank, target), Work(target, tensor, self.carrier.mark()))

    def receive(self, source: int, tag: int, buffer: torch.Tensor) -> Receipt:
        """Start receiving into a contiguous tensor."""
        receipt, key = Receipt(self, source, buffer), (source, tag)
        if unclaimed := self._unclaimed.get(key):
            receipt.work = unclaimed.popleft()
        else:
            self._posted[key].append(receipt)
        return receipt

    def receive_announced(self) -> None:
        """Start to receive every message that has been announced."""
        status = MPI.Status()
        while self.comm.Iprobe(status=status):
            announcement, source = np.empty(2, np.int64), status.Get_source()
            self.comm.Recv(announcement, source)
            self._read += 1
            key, size = (source, int(announcement[0])), int(announcement[1])
            if posted := self._posted.get(key):
                receipt = posted.popleft()
                work = receipt.work = Work(source, receipt.buffer, self.carrier.mark())
            else:
                work = Work(source, self.carrier.memory(size), self.carrier.mark())
                self._unclaimed[key].append(work)
            self._carry((source, self.comm.rank), work)

    def _carry(self, direction: tuple[int, int], work: Work) -> None:
        if not work.buffer.nbytes:  # its announcement is the whole message
            work.finish(None)
            return
        if direction not in self._channels:
            own_store = self.store.clone()  # type: ignore[attr-defined]  # torch's stubs lack it
            store = distributed.PrefixStore("{}-{}".format(*direction), own_store)
            rank = direction.index(self.comm.rank)
            self._channels[direction] = _Channel(self.carrier, store, rank)
        self._works = [each for each in self._works if not each.done()]
        self._works.append(work)
        self._channels[direction].put(work)

    def flushed(self) -> bool:
        """Whether every message that was sent or announced is complete."""
        self.receive_announced()
        return all(work.done() for work in self._works)

    def forget(self) -> None:
        """Drop all incomplete messages, and all buffers that wait for one."""
        self._posted.clear()
        self._unclaimed.clear()
        self._works = []

    def close(self, comm: MPI.Comm) -> Iterator[Callable[[], bool]]:
        """End all channels, on all ranks. Collective; yield each condition to wait for."""
        expected = np.zeros_like(self._sent_to)
        yield comm.Ialltoall(self._sent_to, expected).Test
        yield lambda: self._has_read(int(expected.sum()))
        for channel in self._channels.values():
            channel.close()
        yield lambda: all(channel.closed for channel in self._channels.values())
        yield lambda: all(request.Test() for request, _ in self._announced)
        yield comm.Ibarrier().Test
        self.comm.Free()

    def _has_read(self, announcements: int) -> bool:
        self.receive_announced()
        return self._read == announcements
