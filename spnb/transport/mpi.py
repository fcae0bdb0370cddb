"""Ranks as MPI processes, through mpi4py; gloo or NCCL may carry their tensors.

Ranks wait by `spnb.transport.waiting`: a wait can be interrupted, ends at its deadline, and
receives the message by which another rank reports its failure.

After a failed call, some of its messages have not been received.  Each failure begins a new
generation of tags, and a message is only received in its own generation::

    rank 0   exchange, interrupted ──┐ "generation 0 failed"    sends it          ──► generation 1
    rank 1   (was not called)        └────────────────────────► receives it later ──► generation 1
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from mpi4py import MPI

from ..errors import PeerFailed, WaitTimeout
from ..ir.tags import BARRIER, FAILURE, in_generation
from .base import Arrival
from .mpi_library import memory_of, place_on_host, reads_gpus
from .rendezvous import rendezvous
from .torch_dist import Channels
from .waiting import politely

_PROBES = 20  # MPI may find a message only some probes after its arrival


@dataclass(eq=False)
class _Arrival:
    source: int
    request: MPI.Request
    buffer: torch.Tensor  # must live as long as the request
    finished: bool = False
    cancelled: bool = False

    def done(self) -> bool:
        if not self.finished:
            status = MPI.Status()
            self.finished = self.request.Test(status)
            self.cancelled = self.finished and status.Is_cancelled()
        return self.finished


class _Failure(NamedTuple):
    generation: int
    call: str
    text: str


class MPITransport:
    """One rank of an MPI communicator.

    Parameters
    ----------
    comm
        Communicator to duplicate, so that other messages on it do not interfere.  Collective.
    num_ranks
        Number of ranks of the plan; they are the first ones of the communicator.
    deadline
        Seconds that a rank waits for another before it gives up, unless all are watched.

    Attributes
    ----------
    backend
        The library that carries tensors, ``"mpi"``, ``"gloo"`` or ``"nccl"``, from the next `reset`
        on.
    place
        The place of this rank among the ranks of its host.
    local_rank, local_pids
        Its number among them, and their process ids.
    watch
        Called while this rank waits, if it is not None; it may raise, or end the process.  It finds
        the ranks of this host that do not answer; those that compute may do so for ever.
    note_wait
        Called many times a second while this rank waits, if it is not None.
    call
        Name of the call that this rank is in, the same on all ranks; "" if it has none.  By the
        name, a rank that begins late finds that another has already failed in this call.
    """

    def __init__(self, comm: MPI.Comm, num_ranks: int | None = None, deadline: float = 3600.0):
        self.parent, self.deadline = comm, deadline
        self.num_ranks = num_ranks or comm.size
        self.comm, self.call, self.backend = comm, "", "mpi"
        self.place = place_on_host(comm)
        self.local_rank, self.local_pids = self.place.number, self.place.pids
        self.watch: Callable[[], None] | None = None
        self.note_wait: Callable[[], None] | None = None
        self._channels: Channels | None = None
        self._sent: list[tuple[MPI.Request, torch.Tensor]] = []
        self._unreceived: list[tuple[MPI.Request, torch.Tensor]] = []  # perhaps never received
        self._posted: set[_Arrival] = set()
        self._generation = 0
        self._sent_to, self._received = np.zeros(comm.size, np.int64), 0  # messages
        self._steps: Iterator[Callable[[], bool]] = iter(())  # of the reset under way
        self._awaited: Callable[[], bool] | None = None
        self.reset()

    @property
    def rank(self) -> int:
        """Number of the rank."""
        return self.comm.rank

    @property
    def size(self) -> int:
        """Number of all ranks of the communicator."""
        return self.comm.size

    def reset(self) -> None:
        """Change to a new communicator, after receiving every message of the old one. Collective.

        After a failure, messages may still arrive.  MPI reuses the number of a freed communicator,
        and the later communicator would receive them.  So every message that was sent is received
        first.  An interrupted reset is completed by the next one.
        """
        self._finish_reset()
        self._steps, self._awaited = self._renew(), lambda: True
        self._finish_reset()

    def _finish_reset(self) -> None:
        while self._awaited is not None:
            if not politely(self._awaited, self._look_at_others, self._patience):
                raise WaitTimeout(
                    f"not all {self.parent.size} ranks came within {self.deadline:g} s"
                )
            self._awaited = next(self._steps, None)

    def _renew(self) -> Iterator[Callable[[], bool]]:
        """Make the new communicator; yield each condition to wait for."""
        for arrival in self._posted:
            if not arrival.done():
                arrival.request.Cancel()
        yield lambda: all(arrival.done() for arrival in self._posted)
        self._received += sum(not arrival.cancelled for arrival in self._posted)
        self._posted.clear()
        old, (duplicate, request) = self.comm, self.parent.Idup()
        yield request.Test
        if old is not self.parent:
            expected = np.zeros_like(self._sent_to)
            counts = self.parent.Ialltoall(self._sent_to, expected)
            yield counts.Test
            yield lambda: self._drained() >= expected.sum()
            sent = self._sent + self._unreceived
            yield lambda: all(request.Test() for request, _ in sent)
            old.Free()
        self.comm, self._sent, self._unreceived, self._received = duplicate, [], [], 0
        self._sent_to[:] = 0
        self._generation = 0
        if self._channels is not None:
            self._channels.forget()
            yield from self._channels.close(self.parent)
            self._channels = None
        if self.backend != "mpi":
            self._channels = yield from rendezvous(
                comm=self.parent,
                deadline=self.deadline,
                backend=self.backend,
                local_rank=self.local_rank,
                one_host=len(self.local_pids) == self.size,
            )

    def _drained(self) -> int:
        """Receive remaining messages; return the number of messages received since the start."""
        while self._next_message(MPI.ANY_TAG) is not None:
            pass
        return self._received

    def _next_message(self, tag: int) -> bytes | None:
        """Content of a message that has arrived without a posted receive; None if there is none."""
        status = MPI.Status()
        if not self.comm.Iprobe(MPI.ANY_SOURCE, tag, status):
            return None
        self._received += 1
        content = np.empty(status.Get_count(), dtype=np.uint8)
        self.comm.Recv(content, status.Get_source(), status.Get_tag())
        return content.tobytes()

    def supports(self, device: torch.device) -> bool:
        if self.backend == "mpi":
            return device.type == "cpu" or (device.type == "cuda" and reads_gpus())
        return device.type == ("cuda" if self.backend == "nccl" else "cpu")

    def send(self, target: int, tag: int, tensor: torch.Tensor) -> None:
        send = self._send if self._channels is None else self._channels.send
        send(target, self._tag(tag), tensor)

    def _send(self, target: int, tag: int, tensor: torch.Tensor) -> None:
        request = self.comm.Isend(memory_of(tensor), target, tag)
        self._sent_to[target] += 1
        self._sent = [item for item in self._sent if not item[0].Test()]
        self._sent.append((request, tensor))

    def receive(self, source: int, tag: int, buffer: torch.Tensor) -> Arrival:
        receive = self._receive if self._channels is None else self._channels.receive
        return receive(source, self._tag(tag), buffer)

    def _receive(self, source: int, tag: int, buffer: torch.Tensor) -> Arrival:
        arrival = _Arrival(source, self.comm.Irecv(memory_of(buffer), source, tag), buffer)
        self._posted.add(arrival)
        return arrival

    def wait(self, arrivals: Sequence[Arrival]) -> None:
        self._wait(
            lambda: all(a.done() for a in arrivals),
            lambda: f"ranks {sorted({a.source for a in arrivals if not a.done()})}",
        )
        self._received += len(self._posted.intersection(arrivals))
        self._posted.difference_update(arrivals)

    def flush(self) -> None:
        self._wait(
            lambda: (
                all(request.Test() for request, _ in self._sent)
                and (self._channels is None or self._channels.flushed())
            ),
            lambda: "the receivers of what this rank sent",
        )
        self._sent = []

    def barrier(self) -> None:
        # By messages to and from rank 0: the communicator may have more ranks than the plan uses.
        tag, others = self._tag(BARRIER.tag()), range(1, self.num_ranks)
        tokens = torch.zeros(self.num_ranks, 1, device="cpu")
        if self.rank == 0:
            self.wait([self._receive(r, tag, tokens[r]) for r in others])
            for r in others:
                self._send(r, tag, tokens[0])
        else:
            self._send(0, tag, tokens[0])
            self.wait([self._receive(0, tag, tokens[1])])
        self.flush()

    def begin_call(self) -> None:
        for _ in range(_PROBES):
            if (failure := self._next_failure()) and failure.call == self.call != "":
                raise PeerFailed(failure.text)

    def fail(self, reason: str) -> None:
        failure = _Failure(self._generation, self.call, reason)
        content = torch.frombuffer(bytearray(pickle.dumps(failure)), dtype=torch.uint8)
        for rank in range(self.num_ranks):
            if rank != self.rank:
                self._send(rank, FAILURE.tag(), content)
        self._begin_generation(self._generation + 1)

    def _begin_generation(self, generation: int) -> None:
        self._generation = generation
        self._unreceived = [item for item in self._unreceived + self._sent if not item[0].Test()]
        self._sent = []
        if self._channels is not None:
            self._channels.forget()

    def _wait(self, done: Callable[[], bool], awaited: Callable[[], str]) -> None:
        if not politely(done, self._check, self._patience):
            raise WaitTimeout(f"nothing from {awaited()} for {self.deadline:g} s")

    @property
    def _patience(self) -> float:
        """Seconds of the longest wait."""
        watched = self.watch is not None and len(self.local_pids) == self.size
        return float("inf") if watched else self.deadline

    def _check(self) -> None:
        if self.note_wait is not None:
            self.note_wait()
        self._raise_failure()
        self._look_at_others()

    def _look_at_others(self) -> None:
        if self.watch is not None:
            self.watch()

    def _raise_failure(self) -> None:
        """Raise if another rank has reported a failure."""
        if failure := self._next_failure():
            raise PeerFailed(failure.text)

    def _next_failure(self) -> _Failure | None:
        """A reported failure of this generation, which ends the generation, or of this call."""
        while content := self._next_message(FAILURE.tag()):
            failure = pickle.loads(content)
            new = failure.generation >= self._generation
            if new:
                self._begin_generation(failure.generation + 1)
            if new or failure.call == self.call != "":
                return failure
        return None

    def _tag(self, tag: int) -> int:
        found = in_generation(self._generation, tag)
        highest = self.comm.Get_attr(MPI.TAG_UB)
        assert isinstance(highest, int)  # MPI sets it on every communicator
        if found > highest:
            raise RuntimeError(
                f"{self._generation} calls failed since the plan was loaded, and MPI has no more"
                " tags to tell them apart: cluster.load(plan)"
            )
        return found
