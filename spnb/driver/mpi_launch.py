"""The ranks that ``mpiexec`` or ``srun`` launched; each is a process that runs this same program.

Rank 0 plans, calls functions on all ranks and shows the result.  The others run the functions that
rank 0 calls, and leave the processor free while they wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from ..engine import remote
from ..engine.service import Call, answered
from ..engine.watches import end_all_if_one_is_missing, launcher_goes_on
from ..errors import PeerFailed
from ..ir.rank_plan import RankPlan
from ..job.job_plan import JobPlan
from ..runtime.host_memory import host_memory
from ..transport.mpi_environment import prepare_rank
from ..transport.waiting import politely
from .enough_memory import require_memory
from .launch import watchdog
from .launch.interrupts import end_after_an_interrupt, end_now
from .launch.launcher import is_first_of_host
from .session import Session
from .visible_files import VisibleFiles

T = TypeVar("T")


class MPISession(Session):
    """A plan on the ranks of a launcher; this object exists on rank 0.

    Parameters
    ----------
    plan
        The plan to load.
    ranks
        Calls functions on the ranks.

    Raises
    ------
    ValueError
        If the launcher started fewer ranks than the plan needs.
    """

    def __init__(self, plan: JobPlan, ranks: MPIRanks):
        super().__init__(plan)
        if plan.num_ranks > ranks.comm.size:
            raise ValueError(
                f"the plan needs {plan.num_ranks} ranks, but the launcher started"
                f" {ranks.comm.size}: start {plan.num_ranks}"
            )
        self.ranks = ranks
        if len(ranks.transport.local_pids) < ranks.comm.size:
            self.files = VisibleFiles(
                lambda mark: ranks.call(remote.sees, [(mark,)] * ranks.comm.size)
            )
            (self.scratch / "token").touch()
            self.shares_files = all(self.files.seen(self.scratch / "token", plan.num_ranks))
        require_memory(plan, ranks.call(host_memory, [()] * ranks.comm.size))
        self.load(plan)

    def _load(self, plan: JobPlan, shares: Sequence[tuple[RankPlan, Path]]) -> None:
        count = self.ranks.comm.size
        if plan.job.backend != "mpi":
            self.ranks.call(remote.reset, [(plan.job.backend,)] * count)
        loads = [(rank_plan, self._weights_for_rank(path)) for rank_plan, path in shares]
        self.ranks.call(remote.load, [*loads, *[(None, {})] * (count - len(loads))])

    def _ask(self, calls: Sequence[Call[T] | None]) -> list[T]:
        idle = [None] * (self.ranks.comm.size - len(calls))
        return answered(self.ranks.call(remote.answer, [(call,) for call in [*calls, *idle]]))


class MPIRanks:
    """All ranks of the launcher: rank 0 calls functions on them, the others run the functions.

    Parameters
    ----------
    deadline
        Seconds without a sign of life after which a rank ends all: see `spnb.engine.watches`.
    """

    def __init__(self, deadline: float):
        if is_first_of_host():
            watchdog.remove_orphans()
        prepare_rank()
        from mpi4py import MPI

        from ..transport.mpi import MPITransport

        self.comm = MPI.COMM_WORLD
        self.transport = MPITransport(self.comm)
        self.transport.watch = self._watch = end_all_if_one_is_missing(self.transport, deadline)
        remote.use_transport(self.transport)
        self._calls = 0

    def call(self, function: Callable[..., T], args_by_rank: Sequence[tuple]) -> list[T]:
        """On rank 0: call a function of a module on every rank; return the results in rank order.

        Raises
        ------
        Exception
            The exception that a rank raised; if several failed, the one that caused the others.
        """
        self._barrier()
        self._scatter([(function, args) for args in args_by_rank])
        answers = self._answer(function, args_by_rank[0])
        errors = [answer for answer in answers if isinstance(answer, Exception)]
        for error in sorted(errors, key=lambda e: isinstance(e, PeerFailed)):
            raise error
        return [answer for answer in answers if not isinstance(answer, Exception)]

    def serve(self) -> None:
        """On the other ranks: run the functions that rank 0 calls, until it releases them."""
        while True:
            self._barrier()
            call = self._received(0)
            if call is None:
                return
            self._answer(*call)

    def release(self) -> None:
        """On rank 0: let the other ranks return from `serve`."""
        self._barrier()
        self._scatter([None] * self.comm.size)

    def prepare_to_end(self) -> None:
        """Receive all remaining messages, and find the launcher at work. Collective."""
        remote.reset("mpi")
        self._wait(launcher_goes_on)

    def _answer(self, function: Callable[..., T], args: tuple) -> list[T | Exception]:
        """Call a function here; on rank 0, return the result or the exception of each rank."""
        answer: T | Exception
        self._calls += 1  # the same on all ranks, so that a late rank finds who failed in this call
        self.transport.call = f"call {self._calls}"
        try:
            answer = function(*args)
        except Exception as error:
            answer = error
        self._barrier()
        if self.comm.rank == 0:
            return [answer, *[self._received(rank) for rank in range(1, self.comm.size)]]
        self._wait(self.comm.isend(answer, 0).Test)
        return []

    def _scatter(self, items: Sequence[Any]) -> None:
        """On rank 0: send an item to each other rank; the first one is for rank 0 itself."""
        sent = [self.comm.isend(item, rank) for rank, item in enumerate(items) if rank]
        self._wait(lambda: all(request.Test() for request in sent))

    def _received(self, source: int) -> Any:
        """What a rank has sent."""
        found: list[Any] = []

        def probe() -> bool:
            if not found and (message := self.comm.improbe(source)) is not None:
                found.append(message.irecv())
            return bool(found)

        self._wait(probe)
        request, answer = found[0], list[Any]()

        def test() -> bool:
            done, content = request.test()
            answer[:] = [content]
            return done

        self._wait(test)
        return answer[0]

    def _barrier(self) -> None:
        self._wait(self.comm.Ibarrier().Test)

    def _wait(self, done: Callable[[], bool]) -> None:
        """Wait, and leave the processor to ranks that still compute."""
        politely(done, self._watch, float("inf"))


def run_launched(drive: Callable[[MPIRanks], int], deadline: float) -> int:
    """Run a program on rank 0 while the other ranks serve it; return the exit code.

    An interrupt (Ctrl-C) reaches every rank by itself.  Then none waits for another, and all end.

    Parameters
    ----------
    drive
        The program.
    deadline
        As of `MPIRanks`.
    """
    end_after_an_interrupt()
    try:
        return _run(drive, deadline)
    except KeyboardInterrupt:
        end_now()


def _run(drive: Callable[[MPIRanks], int], deadline: float) -> int:
    ranks, code = MPIRanks(deadline), 0
    with _ending(ranks.prepare_to_end):
        if ranks.comm.rank > 0:
            ranks.serve()
        else:
            with _ending(ranks.release):
                code = drive(ranks)
    return code


@contextmanager
def _ending(together: Callable[[], None]) -> Iterator[None]:
    """Call a function at the end of a block for which ranks wait, unless there is an interrupt."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException:
        together()
        raise
    together()
