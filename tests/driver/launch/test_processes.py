"""The processes of engines: a start that fails, and an end that leaves nothing."""

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from processes import processes_of

from spnb.driver.launch import processes, watchdog
from spnb.driver.launch.engines import Engines
from spnb.driver.launch.interrupts import interrupts_delayed
from spnb.errors import StartError
from spnb.io.disk import scratch

pytestmark = pytest.mark.mpi


@pytest.fixture
def folders(monkeypatch):
    made = []
    real = scratch.tempfile.mkdtemp

    def mkdtemp(**kwargs):
        made.append(real(**kwargs))
        return made[-1]

    monkeypatch.setattr(scratch.tempfile, "mkdtemp", mkdtemp)
    yield made
    end = time.monotonic() + 10  # where an interrupt came first, watchdogs do it
    while (left := [folder for folder in made if is_left(folder)]) and time.monotonic() < end:
        time.sleep(0.1)
    assert not left, {folder: processes_of(folder) for folder in left}


def is_left(folder):
    return Path(folder).exists() or bool(processes_of(folder))


def test_a_failed_start_shows_why_and_leaves_nothing(folders, monkeypatch, tmp_path):
    mpiexec = tmp_path / "mpiexec"
    mpiexec.write_text("#!/bin/sh\necho no slots left\nexit 3\n")
    mpiexec.chmod(0o755)
    real = processes.environment_of_engines
    monkeypatch.setattr(
        processes, "environment_of_engines", lambda f: real(f) | {"PATH": f"{tmp_path}:/bin"}
    )
    with pytest.raises(StartError, match=r"0 of 2 engines started, and .* ended[^$]*no slots left"):
        Engines(2).start()
    mpiexec.unlink()
    with pytest.raises(StartError, match="no mpiexec beside"):
        Engines(2).start()


def test_ctrl_c_and_too_short_a_time_during_the_start(folders):
    def interrupt(stage, done, total):
        raise KeyboardInterrupt if stage == "starting engines" else StopIteration

    with pytest.raises(StopIteration):
        Engines(2, on_progress=interrupt).start()
    timer = threading.Timer(1.5, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        Engines(2).start()
    timer.join()
    with pytest.raises(StartError, match="time is up"):
        Engines(2, timeout=1.0).start()


@pytest.mark.parametrize("step", ["start_controller", "start_engines", "connect_client"])
def test_ctrl_c_within_a_step_of_ipyparallel(step, folders, monkeypatch, caplog):
    real = getattr(processes.ipp.Cluster, step)

    async def interrupted(self, *args, **kwargs):
        os.kill(os.getpid(), signal.SIGINT)
        return await real(self, *args, **kwargs)

    monkeypatch.setattr(processes.ipp.Cluster, step, interrupted)
    with pytest.raises(KeyboardInterrupt):
        Engines(1).start()
    gc.collect()  # asyncio logs the tracebacks of tasks that were left
    assert caplog.messages == []


def test_a_second_interrupt_is_not_delayed():
    with pytest.raises(KeyboardInterrupt), interrupts_delayed():
        os.kill(os.getpid(), signal.SIGINT)
        survived = True
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("the second came too late")
    assert survived
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_controller_that_is_stopped_is_named(folders, monkeypatch):
    real = processes.Launch._connect

    def connect(launch):
        watchdog.send(signal.SIGSTOP, watchdog.family([launch.cluster.controller.process])[1:])
        return real(launch)

    monkeypatch.setattr(processes.Launch, "_connect", connect)
    monkeypatch.setattr(processes, "CONNECT_WITHIN", 1.0)
    with pytest.raises(StartError, match=r"controller does not answer for 1 s \(stopped"):
        Engines(1).start()


def ranks_under(launch):
    started = launch.cluster.engine_set
    every = watchdog.family([started.process]) if started else []
    ranks = [p for p in every if "PMI_RANK" in p.environ()]
    return [p for p in ranks if "ipyparallel.engine" in p.cmdline()]


@pytest.mark.slow
def test_a_rank_that_is_stopped_while_it_starts_is_named(folders):
    engines, sent = Engines(2, deadline=1.0), []

    def stop(stage, ready, total):
        for rank in [] if sent else ranks_under(engines._launch):
            if rank.environ()["PMI_RANK"] == "1":
                rank.send_signal(signal.SIGSTOP)
                sent.append(rank)

    engines._on_progress = stop
    with pytest.raises(StartError, match=r"rank 1 does not answer for 1 s .stopped, or swapping"):
        engines.start()


@pytest.mark.slow
def test_a_rank_that_is_killed_while_mpi_starts_leaves_no_shared_memory(folders):
    engines, sent = Engines(2), []

    def kill(stage, ready, total):
        if engines._launch.files and not sent:
            sent.extend(engines._launch.files)
            watchdog.send(signal.SIGKILL, ranks_under(engines._launch))

    engines._on_progress = kill
    with pytest.raises(StartError):
        engines.start()
    assert sent
    assert not any(Path(file).exists() for file in sent)


def test_nothing_survives_a_killed_owner():
    script = """
        import time
        from spnb.driver.launch.engines import Engines
        engines = Engines(2)
        engines.start()
        print(engines._launch.folder, flush=True)
        time.sleep(600)
    """
    root = str(Path(processes.__file__).parents[3])
    command = [sys.executable, "-c", textwrap.dedent(script)]
    environment = {**os.environ, "PYTHONPATH": root}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as owner:
        folder = owner.stdout.readline().strip()
        assert len(processes_of(folder)) > 4
        files = watchdog.files_of_mpi(processes_of(folder))
        assert any("hydra" in file for file in files)
        owner.send_signal(signal.SIGKILL)
        # Not reaped here: a zombie must count as dead.
        deadline = time.monotonic() + 12
        while left := [p for p in processes_of(folder) if p.pid != owner.pid]:
            assert time.monotonic() < deadline, left
            time.sleep(0.2)
        assert not any(Path(file).exists() for file in (folder, *files))


@pytest.mark.slow
def test_the_end_of_the_process_stops_its_engines():
    script = """
        from spnb.driver.launch.engines import Engines
        engines = Engines(1)
        engines.start()
        print(engines._launch.folder)
    """
    root = str(Path(processes.__file__).parents[3])
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": root},
    )
    folder = done.stdout.strip()
    assert (done.returncode, done.stderr) == (0, "")
    assert not Path(folder).exists()
    assert not processes_of(folder)


KILLED_WHILE_IT_KILLS = """
import os, signal
from spnb.driver.launch import watchdog
from spnb.driver.launch.engines import Engines
from spnb.driver.launch.interrupts import interrupts_delayed
engines = Engines(2)
engines.start()
watchdog.kill = lambda processes: os.kill(os.getpid(), signal.SIGKILL)
engines.stop()
"""


@pytest.mark.slow
def test_nothing_stays_where_the_owner_is_killed_while_it_stops_engines():
    mark = f"SPNB_OWNER_{os.getpid()}"
    environment = {**os.environ, mark: mark}
    done = subprocess.run([sys.executable, "-c", KILLED_WHILE_IT_KILLS], env=environment)
    assert done.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while processes_of(mark) and time.monotonic() < deadline:
        time.sleep(0.1)
    left = processes_of(mark)
    for process in left:
        process.kill()
    assert not left, left


def test_variables_of_a_scheduler_and_of_another_launch_do_no_harm(monkeypatch):
    """A server of notebooks may run inside a job, and may have been started by srun or mpiexec."""
    job = {"SLURM_JOB_ID": "7", "SLURM_JOBID": "7", "SLURM_NODELIST": "n[1-4]", "SLURM_NNODES": "4"}
    job |= {"SLURM_JOB_NODELIST": "n[1-4]", "SLURM_TASKS_PER_NODE": "1(x4)", "SLURM_NTASKS": "4"}
    launch = {
        "PMIX_RANK": "0",
        "PMIX_NAMESPACE": "slurm.pmix.7.0",
        "PMIX_SERVER_URI2": "x;tcp4://x",
    }
    launch |= {"PMI_RANK": "0", "PMI_SIZE": "1", "PMI_FD": "17", "OMPI_COMM_WORLD_RANK": "0"}
    for name, value in {**job, **launch, "SLURM_CPUS_ON_NODE": "1"}.items():
        monkeypatch.setenv(name, value)
    engines = Engines(2, timeout=60)
    try:
        engines.start()
        seen = engines.call(_variables, [()] * 2)
    finally:
        engines.stop()
    for variables in seen:
        assert "SLURM_CPUS_ON_NODE" in variables
        assert not ({*job, *launch} - {"PMI_RANK", "PMI_SIZE", "PMI_FD"}) & variables
        assert "2" in variables  # its own PMI_SIZE


def _variables():
    import os

    return {*os.environ, os.environ.get("PMI_SIZE", "2")}


# Else the engines would import this file.
_variables.__module__ = "__main__"
