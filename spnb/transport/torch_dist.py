"""Messages over torch.distributed's gloo or NCCL, between ranks that MPI has brought together.

MPI stays what ranks meet and hear of failures by.  NCCL knows no tags: what one rank sends to
another arrives in the order in which it was sent, and a receive out of turn would wait for ever;
nor do the two say whether a message is there.  So each message is announced over MPI, and received
as soon as that is heard: into the buffer that waits for it, or into memory of its own::

    rank 0                                        rank 1
    send x, tag 7  ──── MPI: 7, 512 bytes ────►   no buffer for 7 as yet: one is made
                   ════ channel 0 ► 1: x  ════►   x
    send y, tag 3  ──── MPI: 3,  64 bytes ────►   the buffer for 3
                   ════ channel 0 ► 1: y  ════►   y
                                                  a buffer for 7: x is copied there

A channel is one direction between two ranks: a group of these two, made when it is first used, and
a thread that waits for what is on its way.  So nothing on one channel ever waits for another.
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
    """One direction between two ranks, and the thread that waits for what is on its way."""

    def __init__(self, carrier: Carrier, store: distributed.Store, rank: int):
        self._facts, self._queue = (carrier, store, rank), queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def put(self, work: Work) -> None:
        """Carry this after all that was put before."""
        self._queue.put(work)

    def _run(self) -> None:
        carrier, store, rank = self._facts
        group, lost = None, None
        while (work := self._queue.get()) is not None:
            try:
                if group is None and lost is None:
                    group = carrier.open(store, rank)
                if lost is None:
                    carrier.carry(group, rank, work)
            except Exception as error:  # whoever waits is told
                lost = error
            work.finish(lost)
        if group is not None and lost is None:
            carrier.close(group)

    def close(self) -> None:
        """Nothing more will be put."""
        self._queue.put(None)

    @property
    def closed(self) -> bool:
        """Whether the thread is over."""
        return not self._thread.is_alive()


class Receipt:
    """A buffer that waits for a message.

    Attributes
    ----------
    source
        The rank that sends it.
    work
        What brings it; ``None`` before it is announced.
    """

    def __init__(self, channels: Channels, source: int, buffer: torch.Tensor):
        self.source, self.buffer, self.work = source, buffer, None
        self._channels, self._arrived = channels, False

    def done(self) -> bool:
        """Whether it has arrived.

        Raises
        ------
        PeerFailed
            If the connection is lost.
        """
        if self.work is None:
            self._channels.look()
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
        Of all ranks, for announcements; freed by `leave`.
    store
        Where the two ranks of a channel meet; it lives as long as they do.
    carrier
        Carries tensors.
    """

    def __init__(self, comm: MPI.Comm, store: distributed.Store, carrier: Carrier):
        self.comm, self.store, self.carrier = comm, store, carrier
        self._channels: dict[tuple[int, int], _Channel] = {}
        self._posted: dict[tuple[int, int], deque[Receipt]] = defaultdict(deque)
        self._early: dict[tuple[int, int], deque[Work]] = defaultdict(deque)
        self._works: list[Work] = []  # perhaps on their way
        self._announced: list[tuple[MPI.Request, np.ndarray]] = []
        self._told, self._heard = np.zeros(comm.size, np.int64), 0

    def send(self, target: int, tag: int, tensor: torch.Tensor) -> None:
        """Start sending a contiguous tensor."""
        self._announced = [each for each in self._announced if not each[0].Test()]
        word = np.array([tag, tensor.nbytes])
        self._announced.append((self.comm.Isend(word, target), word))
        self._told[target] += 1
        self._carry((self.comm.rank, target), Work(target, tensor, self.carrier.mark()))

    def receive(self, source: int, tag: int, buffer: torch.Tensor) -> Receipt:
        """Start receiving into a contiguous tensor."""
        receipt, key = Receipt(self, source, buffer), (source, tag)
        if early := self._early.get(key):
            receipt.work = early.popleft()
        else:
            self._posted[key].append(receipt)
        return receipt

    def look(self) -> None:
        """Receive what is announced by now."""
        status = MPI.Status()
        while self.comm.Iprobe(status=status):
            word, source = np.empty(2, np.int64), status.Get_source()
            self.comm.Recv(word, source)
            self._heard += 1
            key, size = (source, int(word[0])), int(word[1])
            if posted := self._posted.get(key):
                receipt = posted.popleft()
                work = receipt.work = Work(source, receipt.buffer, self.carrier.mark())
            else:
                work = Work(source, self.carrier.memory(size), self.carrier.mark())
                self._early[key].append(work)
            self._carry((source, self.comm.rank), work)

    def _carry(self, direction: tuple[int, int], work: Work) -> None:
        if not work.buffer.nbytes:  # that it is announced is all
            work.finish(None)
            return
        if direction not in self._channels:
            store = distributed.PrefixStore("{}-{}".format(*direction), self.store.clone())
            rank = direction.index(self.comm.rank)
            self._channels[direction] = _Channel(self.carrier, store, rank)
        self._works = [each for each in self._works if not each.done()]
        self._works.append(work)
        self._channels[direction].put(work)

    def flushed(self) -> bool:
        """Whether all that was sent is there, and all that was announced."""
        self.look()
        return all(work.done() for work in self._works)

    def forget(self) -> None:
        """Nobody waits any more for what is on its way."""
        self._posted.clear()
        self._early.clear()
        self._works = []

    def leave(self, comm: MPI.Comm) -> Iterator[Callable[[], bool]]:
        """End all channels, when all ranks do. Collective; yields what is to be waited for."""
        expected = np.zeros_like(self._told)
        yield comm.Ialltoall(self._told, expected).Test
        yield lambda: (self.look(), self._heard == expected.sum())[1]
        for channel in self._channels.values():
            channel.close()
        yield lambda: all(channel.closed for channel in self._channels.values())
        yield lambda: all(request.Test() for request, _ in self._announced)
        yield comm.Ibarrier().Test
        self.comm.Free()
