"""N ipyparallel engines in one MPI world: started, called, interrupted, stopped.

Nothing here knows of plans, tiles or models.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, wait
from typing import Any

import ipyparallel as ipp

from ..engine.cells import name_cells
from ..errors import EngineDied, EngineError, EngineTimeout, StartError
from .processes import Launch, Progress

SECONDARY = frozenset({"PeerFailed", "KeyboardInterrupt"})
"""Names of exceptions that follow from another rank's: not the cause, if any other was raised."""

POLL = 0.02  # seconds between two looks at the engines during a call
GRACE = 0.5  # seconds for the other ranks to notice by themselves that one failed
PATIENCE = 10.0  # seconds for an interrupted rank to stop; a native call cannot be interrupted


class Engines:
    """N ipyparallel engines in one MPI world.

    Parameters
    ----------
    num_ranks
        Engines to start.
    timeout
        Seconds for all of them to have started.
    on_progress
        Called with a stage's name, how many engines are ready, and of how many.

    Attributes
    ----------
    client
        The ipyparallel client; ``None`` while stopped.
    ids
        The engine's id of each MPI rank.
    hosts
        The host name of each rank.
    view
        A blocking direct view of the engines in the order of their ranks.
    """

    def __init__(
        self, num_ranks: int, *, timeout: float = 60.0, on_progress: Progress | None = None
    ):
        if num_ranks < 1:
            raise ValueError(f"{num_ranks} engines: start at least 1")
        self.num_ranks, self.timeout = num_ranks, timeout
        self._on_progress = on_progress or (lambda stage, done, total: None)
        self._launch: Launch | None = None
        self._forget()

    @classmethod
    def adopt(cls, client: ipp.Client) -> Engines:
        """Use the engines of a client of the user's own; they are never stopped from here.

        Raises
        ------
        StartError
            If the engines are not the ranks of one MPI world.
        """
        if not client.ids:
            raise StartError("the client has 0 engines: wait for them with client.wait_for_engines")
        engines = cls(len(client.ids))
        engines._meet(client)
        return engines

    def start(self) -> None:
        """Start the engines, unless they have been started.

        Raises
        ------
        StartError
            If they do not; nothing is left running then.
        """
        if self.client is not None:
            return
        self._launch = Launch(self.num_ranks)
        self._end = weakref.finalize(self, self._launch.stop)
        try:
            client = self._launch.start(time.monotonic() + self.timeout, self._on_progress)
            self._launch.know(self._meet(client))
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop what was started; safe to call again."""
        self._forget()
        if self._launch is not None:
            self._launch = None
            self._end()

    def restart(self) -> None:
        """Stop what is left, and start anew."""
        self._require_own(self.num_ranks)
        self.stop()
        self.start()

    def ensure(self, num_ranks: int) -> bool:
        """Start anew with more engines where too few live; whether that was needed."""
        if self.alive and len(self.ids) >= num_ranks:
            return False
        self._require_own(num_ranks)
        self.num_ranks = max(num_ranks, self.num_ranks)
        self.restart()
        return True

    @property
    def alive(self) -> bool:
        """Whether every engine lives."""
        return self._ailment() is None

    def call(
        self,
        function: Callable[..., Any],
        args_by_rank: Sequence[tuple],
        *,
        timeout: float | None = None,
        poll: Callable[[list[dict]], None] | None = None,
        output: Callable[[int, str, str], None] | None = None,
    ) -> list[Any]:
        """Call a function on the first ranks, each with its arguments; the results in rank order.

        However it ends, no rank is left at work: those that wait for one that failed are
        interrupted, as all are by Ctrl-C.

        Parameters
        ----------
        function
            Imported by the engines where it is defined in a module.
        args_by_rank
            A tuple of arguments for each rank from 0 on.
        timeout
            Seconds for all to answer.
        poll
            Called every 20 ms or so with what each rank published last (`publish_data` of
            ipyparallel), to show progress.
        output
            Called with rank, text, and "stdout" or "stderr", where a rank printed something.

        Raises
        ------
        EngineError
            The first exception of any rank that is not `SECONDARY`, else the first.
        EngineDied
            If an engine's process ended.
        EngineTimeout
            If the deadline passed.
        """
        self._require_alive()
        if len(args_by_rank) > len(self.ids):
            raise ValueError(
                f"arguments for {len(args_by_rank)} ranks, but {len(self.ids)} engines run"
            )
        self._finish_earlier()
        deadline = time.monotonic() + (float("inf") if timeout is None else timeout)
        calls, failed, printed = self._calls, [], {}
        try:
            for id_, args in zip(self.ids, args_by_rank, strict=False):
                calls.append(self.client[id_].apply_async(function, *args))
            while not failed and (pending := [c for c in calls if not c.done()]):
                if time.monotonic() > deadline:
                    raise EngineTimeout(
                        f"ranks {self._at_work()} did not answer within {timeout:g} s:"
                        " they were interrupted"
                    )
                if poll:
                    poll([dict(c.data) for c in calls])
                if output:
                    _hand_on(calls, printed, output)
                wait(pending, POLL, FIRST_EXCEPTION)
                self._require_alive()
                failed = _failed(calls)
            if failed := failed or _failed(calls):
                wait(calls, GRACE)
        finally:
            stuck = self._interrupt()
            if not stuck:
                self._calls = []  # results may be large
            if output and not isinstance(sys.exception(), KeyboardInterrupt):
                wait(calls, 0)
                _hand_on(calls, printed, output, last=True)
        if failed:
            self._require_alive()
            failed += [rank for rank in _failed(calls) if rank not in failed]
            errors = [EngineError(rank, calls[rank].exception(), stuck) for rank in failed]
            raise min(errors, key=lambda error: error.name in SECONDARY)
        return [c.result() for c in calls]

    def _finish_earlier(self) -> None:
        """Have done with a call that could not be interrupted, or whose interruption was."""
        if stuck := self._interrupt():
            raise EngineTimeout(f"an earlier call is still at work{stuck}")
        self._calls = []

    def _interrupt(self) -> str:
        """Interrupt the ranks that are at work, and wait for them; which do not stop, in words."""
        deadline = time.monotonic() + PATIENCE
        probes: dict[int, ipp.AsyncResult] = {}
        while (ranks := self._unanswered(probes)) and self.alive:
            if time.monotonic() > deadline:
                return f" (ranks {ranks} have not stopped for {PATIENCE:g} s: cluster.restart())"
            # Through the nannies: a signal to mpiexec would end the engines.  One that dies just
            # now is not among the client's engines any more.
            with contextlib.suppress(KeyError):
                ids = [self.ids[rank] for rank in ranks]
                self.client.send_signal(signal.SIGINT, ids, block=False)
            wait([self._calls[rank] for rank in ranks], 1.0)
            # A probe's answer may be lost as well: new ones each time, and no signal meanwhile.
            with contextlib.suppress(KeyError, IndexError, ipp.error.NoEnginesRegistered):
                probes = {
                    rank: self.client[self.ids[rank]].apply_async(_introduce)
                    for rank in self._at_work()
                }
            wait(list(probes.values()), 1.0)
        return ""

    def _unanswered(self, probes: Mapping[int, ipp.AsyncResult]) -> list[int]:
        """Ranks at work; who has done what was asked since has lost the answer, interrupted."""
        for rank, probe in probes.items():
            if probe.done() and not self._calls[rank].done():
                self._calls[rank] = probe
        return self._at_work()

    def _at_work(self) -> list[int]:
        return [rank for rank, call in enumerate(self._calls) if not call.done()]

    def _require_alive(self) -> None:
        if ailment := self._ailment():
            raise EngineDied(ailment)

    def _ailment(self) -> str | None:
        if self.client is None:
            return "the engines are stopped: start them"
        if self._launch is not None and not self._launch.has_controller():
            return "the ipyparallel controller died: cluster.restart()"
        living = self.client.ids
        dead = [rank for rank, id_ in enumerate(self.ids) if id_ not in living]
        if not dead:
            return None
        hosts = ", ".join(sorted({self.hosts[rank] for rank in dead}))
        ranks = f"ranks {dead}" if len(dead) > 1 else f"rank {dead[0]}"
        return (
            f"{ranks} of {len(self.ids)} died on {hosts} (killed, or out of memory?),"
            " and MPI ends all with one: cluster.restart()"
        )

    def _require_own(self, needed: int) -> None:
        if self.client is not None and self._launch is None:
            raise RuntimeError(
                f"needs {needed} new engines, but the client of {len(self.ids)} is your own:"
                " start them yourself, then make a new Cluster"
            )

    def _forget(self) -> None:
        self.client: ipp.Client | None = None
        self.ids: tuple[int, ...] = ()
        self.hosts: tuple[str, ...] = ()
        self.view: ipp.DirectView | None = None
        self._calls: list[ipp.AsyncResult] = []

    def _meet(self, client: ipp.Client) -> list[dict[str, Any]]:
        """Ask each engine who it is: the hub does not promise that ids are ranks."""
        self.client, self.ids = client, tuple(client.ids)
        self.hosts = ("?",) * len(self.ids)
        count = len(self.ids)
        found = self.call(_introduce, [()] * count, timeout=self.timeout)
        order = sorted(range(count), key=lambda i: found[i]["rank"])
        if {engine["size"] for engine in found} != {count}:
            sizes = [engine["size"] for engine in found]
            raise StartError(
                f"{count} engines are in MPI worlds of {sizes} ranks, not all in one of {count}:"
                f" start them with ipyparallel.Cluster(engines='mpi', n={count})"
            )
        self.ids = tuple(self.ids[i] for i in order)
        self.hosts = tuple(found[i]["host"] for i in order)
        self.view = name_cells(client.direct_view(list(self.ids), block=True))
        return found


def _hand_on(
    calls: Sequence[ipp.AsyncResult],
    printed: dict[tuple[int, str], int],
    output: Callable[[int, str, str], None],
    last: bool = False,
) -> None:
    """Hand on what ranks printed since the last look, in whole lines."""
    for rank, call in enumerate(calls):
        for name in ("stdout", "stderr"):
            text, start = getattr(call, name) or "", printed.get((rank, name), 0)
            stop = len(text) if last else text.rfind("\n") + 1
            if stop > start:
                printed[rank, name] = stop
                output(rank, text[start:stop], name)


def _failed(calls: Sequence[ipp.AsyncResult]) -> list[int]:
    return [rank for rank, call in enumerate(calls) if call.done() and call.exception()]


def _introduce() -> dict[str, Any]:
    import os
    import socket

    from mpi4py import MPI

    world = MPI.COMM_WORLD
    host = socket.gethostname()
    return {"rank": world.rank, "size": world.size, "host": host, "pid": os.getpid()}


_introduce.__module__ = "__main__"  # else the engines import this package, and so torch, for it
