"""Runs a command that must not outlive its owner, the process that started it.

Used as a script: ``python watchdog.py OWNER_PID FOLDER COMMAND...``.  When the owner dies for any
reason, or when the file ``lease`` in the folder is removed, the script kills the command and every
process below it, and removes the folder.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

import psutil

LEASE = "lease"
"""File whose removal ends the command."""

SEGMENT = r"/dev/shm/mpich_shm\w+"
"""Pattern of the names of MPICH's files of shared memory."""

DESCRIPTION = r"/tmp/hydra_hwloc_xmlfile_\w+"
"""Pattern of the names of the files in which mpiexec describes the host to its ranks."""

OLD = 600.0
"""Seconds after which a file of MPICH's that no process uses is removed."""

POLL = 0.2
"""Seconds between two looks at the owner."""


def main(owner_pid: int, folder: Path, command: list[str]) -> int:
    """Run the command for as long as its owner lives, and return the command's exit code."""
    lease = folder / LEASE
    if not (psutil.pid_exists(owner_pid) and lease.exists()):
        return 1
    owner, child = psutil.Process(owner_pid), psutil.Popen(command)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: child.send_signal(number))
    while runs(owner) and lease.exists():
        try:
            return child.wait(POLL)
        except psutil.TimeoutExpired:
            continue
    kill_family([child])
    shutil.rmtree(folder, ignore_errors=True)
    return 1


def runs(process: psutil.Process) -> bool:
    """Whether a process lives; a zombie, which has ended but still has an entry, does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def family(leaders: Iterable[psutil.Process]) -> list[psutil.Process]:
    """The processes and all their descendants, in any session and process group."""
    found = []
    for leader in leaders:
        try:
            found += [leader, *leader.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
    return found


def started_with(folder: str) -> list[psutil.Process]:
    """The processes with this folder of IPython in their environment, whoever is their parent."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # another user's, or it has ended
            if process.environ().get("IPYTHONDIR") == folder:
                found.append(process)
    return found


def kill_family(leaders: Collection[psutil.Process]) -> None:
    """Kill processes and all their descendants, and wait until none runs.

    A process that is just starting another would leave it behind.  So each is stopped before its
    children are listed, until none is new; one that got the signal while it forks still ends that
    first.  If the caller were killed meanwhile, they would remain
    stopped; so it is called by watchdogs, which nobody kills, and for watchdogs that do not end.

    Parameters
    ----------
    leaders
        The processes.
    """
    found: list[psutil.Process] = []
    while new := [process for process in family(leaders) if process not in found]:
        send(signal.SIGSTOP, new)
        _wait_while(_goes_on, new, 1.0)
        found += new
    kill(found)


def kill(processes: Collection[psutil.Process]) -> None:
    """Kill the processes that still run, and wait until none does."""
    files = files_of_mpi(processes)
    send(signal.SIGKILL, processes)
    wait(processes, 5.0)
    remove(files)


def files_of_mpi(processes: Iterable[psutil.Process]) -> set[str]:
    """MPICH's files that the processes use; found on Linux only.

    Those of shared memory remain when a rank is killed, and would fill the file system, which may
    be small.  Hydra's descriptions of the host remain when mpiexec is killed.
    """
    found: set[str] = set()
    for process in processes:
        own = Path("/proc", str(process.pid))
        with contextlib.suppress(OSError):
            found.update(re.findall(SEGMENT, (own / "maps").read_text()))
        with contextlib.suppress(OSError):
            opened = [os.readlink(each) for each in (own / "fd").iterdir()]
            found.update(file for file in opened if re.fullmatch(DESCRIPTION, file))
    return found


def remove_orphans() -> None:
    """Remove MPICH's files that no process uses, as of an mpiexec that was killed.

    Another container may share the folders, whose processes are not seen; it has used its files
    soon after their start, so new ones are left alone.
    """
    old = time.time() - OLD
    left = set[str]()
    for pattern in (SEGMENT, DESCRIPTION):
        folder, name = os.path.split(pattern)
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if re.fullmatch(name, entry.name) and entry.stat().st_mtime < old:
                    left.add(entry.path)
    if left:
        remove(left - files_of_mpi(psutil.process_iter()))


def remove(files: Iterable[str]) -> None:
    """Remove the files that still exist."""
    for file in files:
        with contextlib.suppress(OSError):  # another user's
            Path(file).unlink(missing_ok=True)


def wait(processes: Collection[psutil.Process], timeout: float) -> None:
    """Wait until none of the processes runs, for ``timeout`` seconds at most.

    Zombies count as ended: the system decides how long an orphan stays one.
    """
    _wait_while(runs, processes, timeout)


def _wait_while(
    state: Callable[[psutil.Process], bool], processes: Collection[psutil.Process], timeout: float
) -> None:
    """Wait until no process is in a state, for ``timeout`` seconds at most."""
    deadline = time.monotonic() + timeout
    while any(map(state, processes)) and time.monotonic() < deadline:
        time.sleep(0.02)


def _goes_on(process: psutil.Process) -> bool:
    """Whether a process neither ended nor was stopped."""
    try:
        return process.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def send(number: int, processes: Iterable[psutil.Process]) -> None:
    """Send a signal to the processes that still run."""
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
