"""Starts and ends the processes of a cluster: a controller, and engines under one mpiexec."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ipyparallel as ipp
import psutil
from ipyparallel.cluster.launcher import MPIEngineSetLauncher

from ..errors import StartError
from . import watchdog

FAREWELL = 1.0  # seconds for engines to end in order before they are killed
LOOK = 0.02  # seconds between two looks at what is starting

Progress = Callable[[str, int, int], None]

# A quiet logger: what goes wrong is raised.
_log = logging.getLogger(__name__)
_log.addHandler(logging.NullHandler())
_log.setLevel(logging.WARNING)
_log.propagate = False


class Launch:
    """The processes of one start, and the folder they share."""

    def __init__(self, num_ranks: int):
        self.num_ranks = num_ranks
        self.owner = os.getpid()
        self.folder = tempfile.mkdtemp(prefix="spnb-engines-")
        Path(self.folder, watchdog.LEASE).touch()
        self.client: ipp.Client | None = None
        self.cluster = ipp.Cluster(
            parent=None,
            log=_log,
            load_profile=False,
            shutdown_atexit=False,
            engine_launcher_class=MPIEngineSetLauncher,
            profile_dir=self.folder,
            cluster_id="",
            cluster_file="",
            controller_ip="127.0.0.1",
            controller_location="127.0.0.1",
            # An engine registers with a heartbeat, so the period is what its start takes.  An
            # engine's nanny reports its death; the heartbeat may stay as patient as by default.
            controller_args=[
                "--nodb",
                "--HeartMonitor.period=500",
                "--HeartMonitor.max_heartmonitor_misses=60",
            ],
            delay=0.0,
        )
        self.processes: list[psutil.Process] = []
        self.engines: list[psutil.Process] = []
        self.segments: set[str] = set()

    def start(self, deadline: float, on_progress: Progress) -> ipp.Client:
        """Start controller and engines, and connect."""
        total, cluster = self.num_ranks, self.cluster
        environment = _environment(self.folder)
        guarded = [sys.executable, "-P", watchdog.__file__, str(self.owner), self.folder]
        mpiexec = shutil.which("mpiexec", path=environment["PATH"])
        if mpiexec is None:
            raise StartError(
                f"no mpiexec beside {sys.executable} or on PATH: python -m pip install mpich"
            )
        on_progress("starting the controller", 0, total)
        command = [*guarded, sys.executable, "-m", "ipyparallel.controller"]
        cluster.start_controller_sync(controller_cmd=command, environment=environment)
        files = [Path(file) for file in cluster.controller.connection_files.values()]
        while not all(file.exists() for file in files):
            self._check(deadline, "the controller did not start", cluster.controller)
        on_progress("starting engines", 0, total)
        cluster.start_engines_sync(total, mpi_cmd=[*guarded, mpiexec], environment=environment)
        self.client = cluster.connect_client_sync(ipython_dir=self.folder)
        while (ready := len(self.client.ids)) < total:
            on_progress("starting engines", ready, total)
            what = f"{ready} of {total} engines started"
            self._check(deadline, what, cluster.controller, cluster.engine_set)
        on_progress("starting engines", total, total)
        return self.client

    def know(self, found: Sequence[dict[str, Any]]) -> None:
        """Note the processes while all live: orphans are not found later."""
        self.processes = watchdog.family(self._leaders())
        pids = {engine["pid"] for engine in found}
        self.engines = [process for process in self.processes if process.pid in pids]
        self.segments = watchdog.shared_memory(self.processes)

    def has_controller(self) -> bool:
        """Whether the controller runs."""
        return watchdog.runs(self.cluster.controller.process)

    def stop(self) -> None:
        """End every process, and remove the folder."""
        if os.getpid() != self.owner:
            return  # a forked child's copy of us
        try:
            if self.client is not None:
                self.client.close(linger=0)
            processes = [*self.processes, *watchdog.family(self._leaders())]
            watchdog.send(signal.SIGTERM, self.engines)
            watchdog.wait(self.engines, FAREWELL)
            watchdog.kill(processes)
            watchdog.remove(self.segments)
        finally:
            # Ends the lease: what an interrupt left to run here is killed by the guards.
            shutil.rmtree(self.folder, ignore_errors=True)

    def _leaders(self) -> list[psutil.Process]:
        launchers = [self.cluster.controller, self.cluster.engine_set]
        return [each.process for each in launchers if each is not None and each.process]

    def _check(self, deadline: float, what: str, *launchers: Any) -> None:
        late = time.monotonic() > deadline
        for launcher in launchers:
            if late or not watchdog.runs(launcher.process):
                why = "and time is up" if late else f"and {launcher.name} ended"
                tail = "\n".join(launchers[-1].get_output().splitlines()[-15:])
                raise StartError(f"{what}, {why}; the end of its log:\n{tail or '(empty)'}")
        time.sleep(LOOK)


def _environment(folder: str) -> dict[str, str]:
    """What engines get in addition to this process's environment."""
    package = str(Path(__file__).resolve().parents[2])
    inherited = os.environ.get("PYTHONPATH")
    # Site-packages ahead of the standard library would shadow it.
    ours = [] if package == sysconfig.get_path("purelib") else [package]
    environment = {
        "IPYTHONDIR": folder,
        "PATH": os.pathsep.join(
            [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
        ),
        "PYTHONPATH": os.pathsep.join([*ours, *([inherited] if inherited else [])]),
        # Ranks share the cores; whoever knows better sets torch's threads later.
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    }
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return environment
