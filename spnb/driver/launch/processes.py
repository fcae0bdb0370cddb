"""Starts and ends the processes of a cluster: a controller, and engines under one mpiexec."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ipyparallel as ipp
import psutil
from ipyparallel.cluster.launcher import EngineLauncher, MPIEngineSetLauncher

from ...engine.cells import DIGESTS
from ...errors import StartError
from ...io.disk.scratch import remove_scratch, scratch_folder
from ...transport.mpi_environment import (
    free_shared_memory,
    on_one_host,
    require_files,
    require_loopback,
)
from ...transport.mpi_family import Inquiry
from . import watchdog
from .engines_command import engine_command, engines_command, mpiexec_in
from .engines_environment import ON_THIS_HOST, environment_of_engines
from .interrupts import interrupts_delayed
from .launch_log import CONTROLLER, MPIEXEC, last_lines, why_ended
from .launcher import of_another_launch
from .placement import HERE, Placement
from .starting_engines import Progress, StartingEngines

GRACE = 1.0
"""Seconds that engines have to end by themselves before they are killed."""

PATIENCE = 5.0
"""Seconds that watchdogs have to kill what they started."""

POLL = 0.02
"""Seconds between two looks at processes that are starting."""

CONNECT_WITHIN = 10.0
"""Seconds in which the controller answers that a client may connect."""

LOOK_EVERY = 0.5
"""Seconds between two looks at the controller's processes."""

# ipyparallel logs nothing to the user's screen: errors are raised instead.
_log = logging.getLogger(__name__)
_log.addHandler(logging.NullHandler())
_log.setLevel(logging.WARNING)
_log.propagate = False


class Launch:
    """The processes of one start, and the folder that they share.

    Parameters
    ----------
    num_ranks
        Number of engines.
    placement
        Where they are started.
    silence
        Seconds without a sign of life after which a process counts as one that does not answer.

    Attributes
    ----------
    owner
        Id of the process that starts them; they never outlive it.
    folder
        Folder of their connection files, and of the lease of `spnb.driver.launch.watchdog`.
    client
        The client that is connected to them; ``None`` before the start.
    processes, engines, controller
        All processes, the engines among them, and the controller with its schedulers and watchdog,
        once the engines run.
    files
        MPICH's files that they use.
    """

    launcher_class: type[EngineLauncher] = MPIEngineSetLauncher

    def __init__(self, num_ranks: int, placement: Placement = HERE, silence: float = 60.0):
        self.num_ranks, self.placement, self.silence = num_ranks, placement, silence
        self.owner = os.getpid()
        self.folder = str(scratch_folder("engines"))
        Path(self.folder, watchdog.LEASE).touch()
        self.client: ipp.Client | None = None
        self.cluster = ipp.Cluster(
            parent=None,
            log=_log,
            load_profile=False,
            shutdown_atexit=False,
            engine_launcher_class=self.launcher_class,
            profile_dir=self.folder,
            cluster_id="",
            cluster_file="",
            controller_ip="127.0.0.1" if placement.is_here else "0.0.0.0",
            controller_location="127.0.0.1" if placement.is_here else socket.gethostname(),
            # An engine is registered at a heartbeat, so a start takes at least a period (0.5 s).
            # ipyparallel's nanny reports the death of an engine.  The heartbeat would report one
            # that was stopped as dead, so it waits for days.
            controller_args=[
                "--nodb",
                "--HeartMonitor.period=500",
                "--HeartMonitor.max_heartmonitor_misses=1000000",
                f"--Session.digest_history_size={DIGESTS}",
            ],
            delay=0.0,
        )
        self.processes: list[psutil.Process] = []
        self.engines: list[psutil.Process] = []
        self.controller: list[psutil.Process] = []
        self._looked = 0.0  # when all of them ran
        self.files: set[str] = set()

    def start(self, deadline: float, on_progress: Progress) -> ipp.Client:
        """Start controller and engines, and connect.

        Parameters
        ----------
        deadline
            Time of `time.monotonic` at which all engines must have started.
        on_progress
            Called with the progress of the start.

        Returns
        -------
        ipyparallel.Client

        Raises
        ------
        StartError
            If mpiexec is missing, a process ends, the deadline passes, or the host has too little
            of what engines need.
        """
        watchdog.remove_orphans()
        require_loopback()
        require_files(max(84 + 2 * self.num_ranks, 20 + 4 * self.num_ranks))
        environment = environment_of_engines(self.folder)
        if self.placement.is_here:
            environment |= ON_THIS_HOST
            environment |= on_one_host(self.num_ranks, free_shared_memory())
        inquiry = Inquiry(mpiexec_in(environment), os.environ | environment)
        on_progress("starting the controller", 0, self.num_ranks)
        self._start_controller(environment, deadline)
        family = inquiry.family()
        on_progress("starting engines", 0, self.num_ranks)
        command = engines_command(
            self.placement, family, inquiry.mpiexec, environment, self.num_ranks
        )
        with interrupts_delayed():
            self._start_engines(command, environment)
        client = self._connect()
        client.session.digest_history_size = DIGESTS
        self._wait_for_engines(client, deadline, on_progress)
        self.controller = watchdog.family([self.cluster.controller.process])
        return client

    def _guarded(self, command: Sequence[str]) -> list[str]:
        """A command under a watchdog, without what another launch left in the environment."""
        guard = [sys.executable, "-P", watchdog.__file__, str(self.owner), self.folder]
        others = of_another_launch(job=self.placement.launcher in ("local", "ssh"))
        removed = [word for name in others for word in ("-u", name)]
        return [*guard, *(["/usr/bin/env", *removed] if others else []), *command]

    def _start_controller(self, environment: dict[str, str], deadline: float) -> None:
        """Start the controller under a watchdog, and wait for its connection files."""
        command = self._guarded([sys.executable, "-P", f"{Path(__file__).parent}/controller.py"])
        with interrupts_delayed():
            self.cluster.start_controller_sync(controller_cmd=command, environment=environment)
        controller = self.cluster.controller
        files = [Path(file) for file in controller.connection_files.values()]
        while not all(file.exists() for file in files):
            self._wait(deadline, f"0 of {self.num_ranks} engines started", controller)

    def _start_engines(self, command: list[str], environment: dict[str, str]) -> None:
        """Start the engines by a command that takes their number, under a watchdog."""
        guarded = self._guarded(command)
        *engine, _ = engine_command(self.placement)  # ipyparallel adds --mpi
        self.cluster.start_engines_sync(
            self.num_ranks, mpi_cmd=guarded, engine_cmd=engine, environment=environment
        )

    def _connect(self) -> ipp.Client:
        """Connect a client to the controller."""
        try:
            with interrupts_delayed():
                self.client = self.cluster.connect_client_sync(
                    ipython_dir=self.folder, timeout=CONNECT_WITHIN
                )
        except TimeoutError:
            self._require(f"0 of {self.num_ranks} engines started", self.cluster.controller)
            raise StartError(
                f"{CONTROLLER} does not answer for {CONNECT_WITHIN:g} s"
                " (stopped, or swapping?): run the command again"
            ) from None
        return self.client

    def _wait_for_engines(self, client: ipp.Client, deadline: float, on_progress: Progress) -> None:
        """Wait until all engines are registered."""
        cluster, total = self.cluster, self.num_ranks
        starting = StartingEngines(cluster.engine_set.process, self.silence)
        self.files = starting.files
        while (ready := len(client.ids)) < total:
            on_progress("starting engines", ready, total)
            state = f"{ready} of {total} engines started"
            self._wait(deadline, state, cluster.controller, cluster.engine_set)
            if missing := starting.look():
                raise StartError(f"{state}, and {missing}: run the command again")
        on_progress("starting engines", total, total)

    def record_processes(self, introductions: Sequence[Mapping[str, object]]) -> None:
        """Record all processes while they live; children of a dead process cannot be found later.

        Parameters
        ----------
        introductions
            As `spnb.driver.launch.engine_world.introduce` returned them on each engine.
        """
        self.processes = watchdog.family(self._leaders())
        here = socket.gethostname()
        pids = {engine["pid"] for engine in introductions if engine["host"] == here}
        self.engines = [process for process in self.processes if process.pid in pids]
        self.files |= watchdog.files_of_mpi(self.processes)

    def lost(self) -> str:
        """What ended since the start, and with it all engines; "" if nothing did a moment ago.

        It is the controller, or one of its schedulers that pass on messages; or what keeps engines
        on other hosts, whose end nobody there tells.
        """
        if (now := time.monotonic()) > self._looked + LOOK_EVERY:
            each = self.controller or [self.cluster.controller.process]
            if not all(map(watchdog.runs, each)):
                return f"{CONTROLLER} died"
            if not self.placement.is_here and (ended := self._lost_engines()):
                return ended
            self._looked = now
        return ""

    def _lost_engines(self) -> str:
        """What has ended that keeps engines on other hosts; "" if it runs."""
        engines = self.cluster.engine_set
        return "" if watchdog.runs(engines.process) else self._why_ended(engines)

    def _why_ended(self, launcher: Any, advice: str = "") -> str:
        """Why controller or mpiexec has ended."""
        program = CONTROLLER if launcher is self.cluster.controller else MPIEXEC
        return why_ended(program, launcher.get_output().strip(), advice)

    def stop(self) -> None:
        """End every process, and remove the folder."""
        if os.getpid() != self.owner:
            return  # this is a copy in a forked child; the processes are its parent's
        try:
            if self.client is not None:
                self.client.close(linger=0)
            processes = [*self.processes, *watchdog.family(self._leaders())]
            ends = self.engines if self.placement.is_here else self._leaders()[1:]
            watchdog.send(signal.SIGTERM, ends)
            watchdog.wait(ends, GRACE)
            # The watchdogs kill what they started, also if this process is killed now.
            Path(self.folder, watchdog.LEASE).unlink(missing_ok=True)
            watchdog.wait(self._leaders(), PATIENCE)
            # What has left its family: a nanny of an engine that ended, or a scheduler of a
            # controller that did.
            watchdog.kill([*processes, *watchdog.started_with(self.folder)])
            watchdog.kill_family([each for each in self._leaders() if watchdog.runs(each)])
            watchdog.remove(self.files)
        finally:
            # This removes the lease.  If an interrupt came before the kill, the watchdogs now
            # kill the processes.
            remove_scratch(Path(self.folder))

    def _leaders(self) -> list[psutil.Process]:
        """The watchdogs of controller and engines; all other processes are below them."""
        launchers = [self.cluster.controller, self.cluster.engine_set]
        return [each.process for each in launchers if each is not None and each.process]

    def _wait(self, deadline: float, state: str, *launchers: Any) -> None:
        """Wait a moment; raise `StartError` if the deadline has passed or a launcher has ended."""
        self._require(state, *launchers)
        if time.monotonic() > deadline:
            log = launchers[-1].get_output().strip()
            raise StartError(f"{state}, and time is up; the end of its log:\n{last_lines(log)}")
        time.sleep(POLL)

    def _require(self, state: str, *launchers: Any) -> None:
        """Raise `StartError` if a launcher has ended."""
        for launcher in launchers:
            if not watchdog.runs(launcher.process):
                why = self._why_ended(launcher, ": run the command again")
                raise StartError(f"{state}, and {why}")
