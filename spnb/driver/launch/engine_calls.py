"""Sends, watches and interrupts calls of a function on all engines at once."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, wait
from typing import TypeVar

import ipyparallel as ipp

from ...display.progress import notebook
from ...engine.cells import SentCells
from ...errors import EngineError, EngineTimeout
from ...transport.signs_of_life import SignsOfLife, no_answer
from .engine_world import RESTART, EngineWorld, introduce

T = TypeVar("T")

SECONDARY = frozenset({"PeerFailed", "KeyboardInterrupt"})
"""Names of exceptions that follow from another rank's exception, and so are not the cause."""

POLL = 0.02  # seconds between two looks at the engines during a call
GRACE = 0.5  # seconds for the other ranks to notice by themselves that one failed
PATIENCE = 10.0  # seconds for an interrupted rank to stop; a native call cannot be interrupted
CELL_PATIENCE = 3.0  # seconds for a cell that the engines still run
FORGOTTEN = 1024  # ended messages of which late records are still removed

Poll = Callable[[list[dict]], None]
"""Receives the data that each rank published last."""

Output = Callable[[int, str, str], None]
"""Receives a rank, the text that it printed, and ``"stdout"`` or ``"stderr"``."""


class EngineCalls:
    """The calls that engines have received, at most one for each rank.

    Parameters
    ----------
    world
        The engines.
    deadline
        Seconds without a sign of life after which a rank counts as one that does not answer.
    cells
        The cells that a notebook sends to the engines besides.

    Attributes
    ----------
    results
        The result of each rank's call, pending or not.  If a call could not be interrupted, its
        results are still here when the next call begins.
    """

    def __init__(self, world: EngineWorld, deadline: float, cells: SentCells | None = None):
        self.world, self._signs = world, SignsOfLife(world.pids, deadline)
        self._cells = cells
        between = world.launch.controller if world.launch is not None else []
        self._controller = SignsOfLife({p.pid: p.pid for p in between}, deadline)
        self.results: list[ipp.AsyncResult] = []
        # The ids of the last messages whose calls have ended.
        self._forgotten: deque[str] = deque(maxlen=FORGOTTEN)

    def change_deadline(self, deadline: float) -> None:
        """Wait so many seconds for a sign of life from now on."""
        self._signs.deadline = self._controller.deadline = deadline

    def call(
        self,
        function: Callable[..., T],
        args_by_rank: Sequence[tuple],
        timeout: float | None,
        poll: Poll | None,
        output: Output | None,
    ) -> list[T]:
        """Call a function on the first ranks: see `spnb.driver.launch.engines.Engines.call`."""
        self._finish_earlier()
        self._wait_for_cells()
        printed: dict[tuple[int, str], int] = {}
        failed: list[int] = []
        try:
            self._send(function, args_by_rank)
            failed = self._watch(timeout, poll, output, printed)
            if failed:
                wait(self.results, GRACE)
        finally:
            results, stuck = self.results, self._interrupt()
            if not stuck:
                self.results = []  # results may be large
            if output and not isinstance(sys.exception(), KeyboardInterrupt):
                wait(results, 0)
                _pass_on(results, printed, output, last=True)
            self._forget([result for result in results if result.done()])
        if failed:
            self.world.require_alive()
            failed += [rank for rank in _failed(results) if rank not in failed]
            errors = [EngineError(rank, results[rank].exception(), stuck) for rank in failed]
            raise min(errors, key=lambda error: error.name in SECONDARY)
        return [result.result() for result in results]

    def _forget(self, done: Sequence[ipp.AsyncResult]) -> None:
        """Let the client forget results, which it would keep until the end of the session.

        What a rank has printed or published may come after its result, on a busy machine several
        calls later, and the client then makes a record of that message anew.  So the records of
        the last messages are removed again after each call.
        """
        client = self.world.client
        for late in self._forgotten:
            client.metadata.pop(late, None)
        if done:
            client.purge_local_results(done)
        for message in (message for result in done for message in result.msg_ids):
            self._forgotten.append(message)
            with contextlib.suppress(ValueError):
                client.history.remove(message)

    def _send(self, function: Callable[..., object], args_by_rank: Sequence[tuple]) -> None:
        client, ids = self.world.client, self.world.ids
        for id_, args in zip(ids, args_by_rank, strict=False):
            self.results.append(client[id_].apply_async(function, *args))

    def _watch(
        self,
        timeout: float | None,
        poll: Poll | None,
        output: Output | None,
        printed: dict[tuple[int, str], int],
    ) -> list[int]:
        """Wait until all ranks have answered or one has failed; return the ranks that failed."""
        deadline = time.monotonic() + (float("inf") if timeout is None else timeout)
        failed: list[int] = []
        told = ""  # who does not answer
        while not failed and (pending := [r for r in self.results if not r.done()]):
            if time.monotonic() > deadline:
                raise EngineTimeout(
                    f"ranks {self._pending()} did not answer within {timeout:g} s:"
                    " they were interrupted"
                )
            if (missing := self._missing()) and missing != told:
                self._tell(missing)
            told = missing
            if poll:
                poll([dict(result.data) for result in self.results])
            if output:
                _pass_on(self.results, printed, output)
            wait(pending, POLL, FIRST_EXCEPTION)
            self.world.require_alive()
            failed = _failed(self.results)
        return failed or _failed(self.results)

    def _missing(self) -> str:
        """Say who does not answer; "" if all do."""
        if ranks := self._signs.missing():
            return no_answer(ranks, self._signs.deadline)
        if self._controller.missing():
            return no_answer("the ipyparallel controller", self._controller.deadline)
        return ""

    def _tell(self, text: str) -> None:
        """Say in a notebook who does not answer, and leave the choice to the user.

        Raises
        ------
        EngineTimeout
            Elsewhere.
        """
        if notebook() is None:
            raise EngineTimeout(f"{text}: {RESTART}")
        waits = "the run waits for it, and goes on when it does"
        print(f"spnb: {text}: {waits}; or interrupt, then cluster.restart()", file=sys.stderr)

    def _finish_earlier(self) -> None:
        """Interrupt an earlier call, if ranks are still at work on it.

        Raises
        ------
        EngineTimeout
            If it does not stop.
        """
        if stuck := self._interrupt():
            raise EngineTimeout(f"an earlier call is still at work{stuck}")
        self.results = []

    def _wait_for_cells(self) -> None:
        """Wait for cells that end soon: a call would be queued behind them, on their ranks alone.

        Raises
        ------
        EngineTimeout
            If one does not end soon.
        """
        if self._cells is None:
            return
        deadline = time.monotonic() + CELL_PATIENCE
        while (engines := self._cells.still_run()) and time.monotonic() < deadline:
            self.world.require_alive()
            time.sleep(POLL)
        # An interrupt may have lost a cell's answer: an engine that answers now has ended it.
        probes = {id_: self.world.client[id_].apply_async(introduce) for id_ in engines}
        wait(list(probes.values()), 1.0)
        self._cells.ended({id_ for id_, probe in probes.items() if probe.done()})
        if engines := self._cells.still_run():
            ranks = [rank for rank, id_ in enumerate(self.world.ids) if id_ in engines]
            who = f"engine {ranks[0]} is" if len(ranks) == 1 else f"engines {ranks} are"
            raise EngineTimeout(
                f"{who} busy in a cell: wait until it has ended, or cluster.restart()"
            )

    def _interrupt(self) -> str:
        """Interrupt the ranks at work, and wait for them; return a text on those that go on."""
        deadline = time.monotonic() + PATIENCE
        client, ids = self.world.client, self.world.ids
        probes: dict[int, ipp.AsyncResult] = {}
        while (ranks := self._unanswered(probes)) and self.world.ailment() is None:
            if missing := self._missing():  # no interrupt would reach it
                return f" ({missing}: {RESTART})"
            if time.monotonic() > deadline:
                return f" (ranks {ranks} have not stopped for {PATIENCE:g} s: {RESTART})"
            # Their nannies send the signal: a signal to mpiexec would end the engines.  An engine
            # that has just died is no longer among the client's engines.
            with contextlib.suppress(KeyError):
                client.send_signal(signal.SIGINT, [ids[rank] for rank in ranks], block=False)
            wait([self.results[rank] for rank in ranks], 1.0)
            # The interrupt may lose a probe's answer too, so each round sends new probes, and no
            # signal is sent while they are answered.
            with contextlib.suppress(KeyError, IndexError, ipp.error.NoEnginesRegistered):
                probes = {
                    rank: client[ids[rank]].apply_async(introduce) for rank in self._pending()
                }
            wait(list(probes.values()), 1.0)
        return ""

    def _unanswered(self, probes: Mapping[int, ipp.AsyncResult]) -> list[int]:
        """Ranks that are still at work.

        A rank that answered a later probe has ended its call, and the interrupt lost its answer.
        """
        for rank, probe in probes.items():
            if probe.done() and not self.results[rank].done():
                self.results[rank] = probe
        return self._pending()

    def _pending(self) -> list[int]:
        return [rank for rank, result in enumerate(self.results) if not result.done()]


def _pass_on(
    results: Sequence[ipp.AsyncResult],
    printed: dict[tuple[int, str], int],
    output: Output,
    last: bool = False,
) -> None:
    """Pass on the text that ranks have printed since the last call, in whole lines."""
    for rank, result in enumerate(results):
        for name in ("stdout", "stderr"):
            text, start = getattr(result, name) or "", printed.get((rank, name), 0)
            stop = len(text) if last else text.rfind("\n") + 1
            if stop > start:
                printed[rank, name] = stop
                output(rank, text[start:stop], name)


def _failed(results: Sequence[ipp.AsyncResult]) -> list[int]:
    return [rank for rank, result in enumerate(results) if result.done() and result.exception()]
