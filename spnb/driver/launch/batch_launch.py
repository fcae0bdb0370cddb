"""Engines as a batch job of Slurm: sent, waited for, and cancelled."""

from __future__ import annotations

import contextlib
import re
import time
from pathlib import Path
from typing import Any

import ipyparallel as ipp
import psutil
from ipyparallel.cluster.launcher import EngineLauncher, LauncherError, SlurmEngineSetLauncher

from ...errors import StartError
from . import slurm
from .engines_command import engine_command
from .launch_log import last_lines
from .placement import Placement
from .processes import Launch
from .starting_engines import Progress

ASK_EVERY = 2.0
"""Seconds between two questions for the state of the job."""

PATIENCE = 5.0
"""Seconds that a job has to end."""

LOGS = Path("~/.cache/spnb")
"""Folder of what engines print; nodes see it where they share the user's home."""


class JobLauncher(SlurmEngineSetLauncher):
    """Sends a job, and raises with what Slurm says where it takes none."""

    job_id_regexp = re.compile(r"Submitted batch job (\d+)")
    job_id_regexp_group = 1

    def _run_command(self, command: list[str], **options: Any) -> str:
        done = slurm.ran(command, **options)
        if done.returncode:
            raise LauncherError(" ".join(done.stdout.split()))
        return done.stdout


class BatchLaunch(Launch):
    """The controller on this host, and the batch job of its engines.

    If this process is killed, the controller ends, and the engines with the signs of life that it
    sends them.

    Parameters
    ----------
    num_ranks
        Number of engines.
    placement
        Nodes, partition and time of the job.
    """

    launcher_class: type[EngineLauncher] = JobLauncher

    def __init__(self, num_ranks: int, placement: Placement, silence: float):
        super().__init__(num_ranks, placement, silence)
        self._asked = 0.0  # for the state of the job
        self.log = LOGS.expanduser() / f"{Path(self.folder).name}.log"

    def _start_engines(self, command: list[str], environment: dict[str, str]) -> None:
        """Send the job."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        words = [*command, "-n", str(self.num_ranks), *engine_command(self.placement)]
        script = slurm.batch_script(
            self.placement, words, name="spnb", ranks=str(self.num_ranks), output=str(self.log)
        )
        try:
            self.cluster.start_engines_sync(
                self.num_ranks,
                batch_template=script,
                batch_file_name=str(Path(self.folder, "engines.sbatch")),
                output_file=str(self.log),
                environment=environment,
            )
        except (OSError, LauncherError) as error:
            raise StartError(f"Slurm took no job: {error}; the job was:\n{script}") from None

    def _wait_for_engines(self, client: ipp.Client, deadline: float, on_progress: Progress) -> None:
        """Wait until all engines are registered; the time of the job in the queue does not count.

        Raises
        ------
        StartError
            If the job ends, or the time is up.
        """
        job, total = self.cluster.engine_set.job_id, self.num_ranks
        allowed = deadline - time.monotonic()
        while (ready := len(client.ids)) < total:
            if time.monotonic() > self._asked + ASK_EVERY:
                self._asked = time.monotonic()
                state, reason = slurm.state_of(job)
            stage = f"Slurm's job {job} is {state or 'gone'}"
            on_progress(f"{stage} ({reason})" if reason else stage, ready, total)
            if state in slurm.WAITING:
                deadline = time.monotonic() + allowed
            elif state not in ("RUNNING", "COMPLETING") or time.monotonic() > deadline:
                late = "" if not state or state != "RUNNING" else ", and time is up"
                raise StartError(
                    f"{ready} of {total} engines started, and {stage}{late}; the end of"
                    f" {self.log}:\n{self._end_of_log()}"
                )
            self._wait(deadline, stage, self.cluster.controller)
        on_progress("starting engines", total, total)

    def _lost_engines(self) -> str:
        if time.monotonic() < self._asked + ASK_EVERY:
            return ""
        self._asked = time.monotonic()
        job = self.cluster.engine_set.job_id
        state, _ = slurm.state_of(job)
        return "" if state == "RUNNING" else f"Slurm's job {job} is {state or 'gone'}"

    def _end_of_log(self) -> str:
        try:
            return last_lines(self.log.read_text(errors="replace"))
        except OSError:
            return "(this host does not see it)"

    def _leaders(self) -> list[psutil.Process]:
        controller = self.cluster.controller
        return [controller.process] if controller is not None and controller.process else []

    def stop(self) -> None:
        """Cancel the job, and end every process of this host."""
        engines = self.cluster.engine_set if self.cluster.engines else None
        if engines is not None and engines.job_id:
            with contextlib.suppress(Exception):  # the job may have ended
                slurm.told(["scancel", engines.job_id])
                end = time.monotonic() + PATIENCE
                while slurm.state_of(engines.job_id)[0] and time.monotonic() < end:
                    time.sleep(0.2)
        super().stop()
        self.log.unlink(missing_ok=True)
