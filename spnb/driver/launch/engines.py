"""Starts, calls and stops N ipyparallel engines in one MPI world.

This module is independent of plans, tiles and models.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Sequence
from typing import TypeVar

import ipyparallel as ipp

from ...engine.cells import SentCells
from ...errors import EngineDied, StartError
from .batch_launch import BatchLaunch
from .engine_calls import EngineCalls, Output, Poll
from .engine_world import EngineWorld, Introduction, introduce
from .placement import HERE, Placement
from .processes import Launch
from .slurm import step_fits
from .starting_engines import Progress

T = TypeVar("T")


class Engines:
    """N ipyparallel engines in one MPI world.

    Parameters
    ----------
    num_ranks
        Number of engines to start.
    timeout
        Seconds in which all of them must start.
    on_progress
        Called with the progress of a start: see `spnb.driver.launch.starting_engines.Progress`.
    deadline
        Seconds without a sign of life after which a rank counts as one that does not answer.
    placement
        Where the engines are started.

    Attributes
    ----------
    view
        A blocking direct view of the engines in the order of their ranks; ``None`` while stopped.
    """

    def __init__(
        self,
        num_ranks: int,
        *,
        timeout: float = 60.0,
        on_progress: Progress | None = None,
        deadline: float = 60.0,
        placement: Placement = HERE,
    ):
        if num_ranks < 1:
            raise ValueError(f"{num_ranks} engines: start at least 1")
        self.num_ranks, self.timeout, self.deadline = num_ranks, timeout, deadline
        self.placement = placement
        self._on_progress = on_progress or (lambda stage, done, total: None)
        self._launch: Launch | None = None
        self._cells: SentCells | None = None
        self._forget()

    @classmethod
    def adopt(cls, client: ipp.Client, deadline: float = 60.0) -> Engines:
        """Use the engines of a client of the user's own; they are never stopped from here.

        Parameters
        ----------
        client
            The client.
        deadline
            As of the class.

        Raises
        ------
        StartError
            If the engines are not the ranks of one MPI world.
        """
        if not client.ids:
            raise StartError("the client has 0 engines: wait for them with client.wait_for_engines")
        engines = cls(len(client.ids), deadline=deadline)
        engines._use(client)
        return engines

    @property
    def client(self) -> ipp.Client | None:
        """The ipyparallel client; ``None`` while stopped."""
        return self._world.client if self._world else None

    @property
    def ids(self) -> tuple[int, ...]:
        """The engine's id of each MPI rank."""
        return self._world.ids if self._world else ()

    @property
    def hosts(self) -> tuple[str, ...]:
        """The host name of each rank."""
        return self._world.hosts if self._world else ()

    def start(self) -> None:
        """Start the engines, unless they run already.

        Raises
        ------
        StartError
            If they do not start; no process is left running then.
        """
        if self.client is not None:
            return
        is_job = self.placement.launcher == "slurm" and not step_fits(self.placement)
        kind = BatchLaunch if is_job else Launch
        self._launch = kind(self.num_ranks, self.placement, self.deadline)
        self._end = weakref.finalize(self, self._launch.stop)
        try:
            client = self._launch.start(time.monotonic() + self.timeout, self._on_progress)
            self._launch.record_processes(self._use(client))
        except BaseException:
            self.stop()
            raise

    def change_deadline(self, deadline: float) -> None:
        """Wait so many seconds for a sign of life of an engine from now on."""
        self.deadline = deadline
        if self._calls is not None:
            self._calls.change_deadline(deadline)

    def stop(self) -> None:
        """Stop the engines that were started here; safe to call again."""
        self._forget()
        if self._launch is not None:
            self._launch = None
            self._end()

    def restart(self) -> None:
        """Stop the remaining engines, and start new ones."""
        self._require_own(self.num_ranks)
        self.stop()
        self.start()

    def ensure(self, num_ranks: int) -> bool:
        """Restart with more engines if fewer than ``num_ranks`` live; return whether it did."""
        if self.alive and len(self.ids) >= num_ranks:
            return False
        self._require_own(num_ranks)
        self.num_ranks = max(num_ranks, self.num_ranks)
        self.restart()
        return True

    @property
    def alive(self) -> bool:
        """Whether every engine lives."""
        return self._world is not None and self._world.ailment() is None

    def call(
        self,
        function: Callable[..., T],
        args_by_rank: Sequence[tuple],
        *,
        timeout: float | None = None,
        poll: Poll | None = None,
        output: Output | None = None,
    ) -> list[T]:
        """Call a function on the first ranks; return the results in rank order.

        When the call ends, no rank is left at work: ranks that wait for a failed one are
        interrupted, and Ctrl-C interrupts all.

        Parameters
        ----------
        function
            Imported by the engines if it is defined in a module.
        args_by_rank
            A tuple of arguments for each rank from 0 on.
        timeout
            Seconds in which all must answer.
        poll
            Called about every 20 ms with the data that each rank published last (`publish_data` of
            ipyparallel), to show progress.
        output
            Called with rank, text, and "stdout" or "stderr", when a rank has printed.

        Raises
        ------
        EngineError
            The first exception of a rank that does not follow from another rank's, as a
            `PeerFailed` or a `KeyboardInterrupt` does; if all do, the first of them.
        EngineDied
            If an engine's process ended.
        EngineTimeout
            If the deadline passed.
        """
        if self._calls is None:
            raise EngineDied("the engines are stopped: start them")
        self._calls.world.require_alive()
        if len(args_by_rank) > len(self.ids):
            raise ValueError(
                f"arguments for {len(args_by_rank)} ranks, but {len(self.ids)} engines run"
            )
        return self._calls.call(function, args_by_rank, timeout, poll, output)

    def _require_own(self, needed: int) -> None:
        if self.client is not None and self._launch is None:
            raise RuntimeError(
                f"needs {needed} new engines, but the client of {len(self.ids)} is your own:"
                " start them yourself, then make a new Cluster"
            )

    def _forget(self) -> None:
        if self._cells is not None and self._launch is not None:  # a user's own engines go on
            self._cells.refuse("no engines run: spnb.start(plan) starts them")
        self.view: ipp.DirectView | None = None
        self._calls: EngineCalls | None = None
        self._cells = None

    @property
    def _world(self) -> EngineWorld | None:
        """The engines that run; ``None`` while stopped."""
        return self._calls.world if self._calls else None

    def _use(self, client: ipp.Client) -> list[Introduction]:
        """Use a client's engines in the order of their ranks; engine ids may differ from ranks."""
        unordered = EngineWorld.unordered(client, self._launch)
        self._calls = EngineCalls(unordered, self.deadline)
        introductions = self.call(introduce, [()] * len(self.ids), timeout=self.timeout)
        ordered = unordered.ordered(introductions)
        self.view = client.direct_view(list(ordered.ids), block=True)
        self._cells = SentCells(self.view)
        self._calls = EngineCalls(ordered, self.deadline, self._cells)
        return introductions
