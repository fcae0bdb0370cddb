"""Ranks as MPI processes, through mpi4py.

More ranks than cores is the normal case in a notebook.  MPI's own waits spin, and take the core
from a rank that computes; here a wait tests, and sleeps between tests: at first briefly, to catch a
halo that is about to arrive, later longer.  Between tests a wait can be interrupted, sees its
deadline, and hears of another rank's failure.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from mpi4py import MPI

from . import PeerFailed, WaitTimeout

_FAILURE_TAG = 0
_SPIN = 2e-4  # seconds of testing without sleep: most halos arrive within
_SHORTEST, _LONGEST = 2e-5, 1e-3  # seconds of sleep between two tests


def politely(done: Callable[[], bool], check: Callable[[], None], timeout: float) -> bool:
    """Test until done, sleeping ever longer (a 20th of the time waited); False past the timeout."""
    start = time.perf_counter()
    while not done():
        waited = time.perf_counter() - start
        if waited > _SPIN:
            check()
            if waited > timeout:
                return False
            time.sleep(min(max(_SHORTEST, waited / 20), _LONGEST))
    return True


@dataclass
class _Arrival:
    source: int
    request: MPI.Request

    def done(self) -> bool:
        return self.request.Test()


class MPITransport:
    """One rank of an MPI communicator.

    Parameters
    ----------
    comm
        Communicator to duplicate, so that no message of anybody else is met. Collective.
    num_ranks
        Ranks that take part in the plan: the first of the communicator.
    deadline
        Seconds that a rank waits for another before it gives up.
    """

    def __init__(self, comm: MPI.Comm, num_ranks: int | None = None, deadline: float = 3600.0):
        self.parent, self.deadline = comm, deadline
        self.num_ranks = num_ranks or comm.size
        self.comm = comm
        self._sent: list[tuple[MPI.Request, torch.Tensor]] = []
        self._lost: list[tuple[MPI.Request, torch.Tensor]] = []
        self.reset()

    @property
    def rank(self) -> int:
        """Number of the rank."""
        return self.comm.rank

    def reset(self) -> None:
        """Go on with a fresh communicator, which nothing left over can reach. Collective.

        After a failure messages may be on their way still; their buffers are kept until then.
        """
        self._lost = [item for item in (*self._lost, *self._sent) if not item[0].Test()]
        self._sent = []
        fresh, request = self.parent.Idup()
        if not politely(request.Test, lambda: None, self.deadline):
            raise WaitTimeout(f"not all {self.parent.size} ranks came within {self.deadline:g} s")
        if self.comm is not self.parent and not self._lost:
            self.comm.Free()
        self.comm = fresh

    def send(self, target: int, tag: int, tensor: torch.Tensor) -> None:
        request = self.comm.Isend(_bytes(tensor), target, tag + 1)
        self._sent = [item for item in self._sent if not item[0].Test()]
        self._sent.append((request, tensor))

    def receive(self, source: int, tag: int, buffer: torch.Tensor) -> _Arrival:
        return _Arrival(source, self.comm.Irecv(_bytes(buffer), source, tag + 1))

    def wait(self, arrivals: list[_Arrival]) -> None:
        try:
            self._wait(
                lambda: all(a.done() for a in arrivals),
                lambda: f"ranks {sorted({a.source for a in arrivals if not a.done()})}",
            )
        except BaseException:
            for arrival in arrivals:  # the buffers must not be written after they are gone
                if not arrival.request.Test():
                    arrival.request.Cancel()
                    arrival.request.Free()
            raise

    def flush(self) -> None:
        self._wait(
            lambda: all(request.Test() for request, _ in self._sent),
            lambda: "the receivers of what this rank sent",
        )
        self._sent = []

    def barrier(self) -> None:
        # By messages to and from rank 0: ranks beyond the plan's take no part in it.
        token = torch.zeros(1)
        others = range(1, self.num_ranks)
        if self.rank == 0:
            self.wait([self.receive(r, self._BARRIER, torch.zeros(1)) for r in others])
            for r in others:
                self.send(r, self._BARRIER, token)
        else:
            self.send(0, self._BARRIER, token)
            self.wait([self.receive(0, self._BARRIER, torch.zeros(1))])
        self.flush()

    def fail(self, reason: str) -> None:
        text = np.frombuffer(reason.encode(), dtype=np.uint8)
        for rank in range(self.num_ranks):
            if rank != self.rank:
                self._lost.append((self.comm.Isend(text, rank, _FAILURE_TAG), text))

    _BARRIER = 1 << 20

    def _wait(self, done: Callable[[], bool], whom: Callable[[], str]) -> None:
        if not politely(done, self._listen, self.deadline):
            raise WaitTimeout(f"nothing from {whom()} for {self.deadline:g} s")

    def _listen(self) -> None:
        """Raise if another rank says that it failed."""
        status = MPI.Status()
        if self.comm.Iprobe(MPI.ANY_SOURCE, _FAILURE_TAG, status):
            text = np.empty(status.Get_count(), dtype=np.uint8)
            self.comm.Recv(text, status.Get_source(), _FAILURE_TAG)
            raise PeerFailed(f"rank {status.Get_source()} failed: {text.tobytes().decode()}")


def _bytes(tensor: torch.Tensor) -> np.ndarray:
    """A contiguous tensor's memory; as bytes, since numpy has no bfloat16."""
    return tensor.reshape(-1).view(torch.uint8).numpy()
