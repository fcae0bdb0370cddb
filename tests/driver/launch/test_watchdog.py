"""What ends the processes of engines."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from processes import processes_of

from spnb.driver.launch import watchdog

SPAWNER = """
import subprocess, time
while True:
    subprocess.Popen(["sleep", "60"])
    time.sleep(0.002)
"""

FORKS = """
import os, time
held = b"x" * 2**28  # each fork takes some milliseconds, in which the signal comes
while os.fork():
    time.sleep(0.002)
time.sleep(60)
"""


@pytest.mark.parametrize("program", [SPAWNER, FORKS])
def test_a_process_that_starts_others_leaves_none_behind(program):
    mark = f"SPNB_SPAWNER_{os.getpid()}"
    for _ in range(5):
        with subprocess.Popen([sys.executable, "-c", program], env={mark: mark}) as spawner:
            leader = psutil.Process(spawner.pid)
            while not leader.children():
                time.sleep(0.01)
            watchdog.kill_family([leader])
        left = processes_of(mark)
        for process in left:
            process.kill()
        assert not left


@pytest.fixture
def description():
    """A file as mpiexec makes one for its ranks."""
    file = Path(f"/tmp/hydra_hwloc_xmlfile_spnb{os.getpid()}")
    file.touch()
    yield file
    file.unlink(missing_ok=True)


def made_long_ago(file):
    os.utime(file, (time.time() - 2 * watchdog.OLD,) * 2)


def test_a_file_of_mpiexec_ends_with_the_processes_that_use_it(description):
    with description.open() as opened, subprocess.Popen(["sleep", "60"], stdin=opened) as user:
        made_long_ago(description)
        watchdog.remove_orphans()
        assert description.exists()
        watchdog.kill([psutil.Process(user.pid)])
    assert not description.exists()


def test_a_file_of_mpiexec_that_nobody_uses_is_removed_once_it_is_old(description):
    watchdog.remove_orphans()
    assert description.exists()
    made_long_ago(description)
    watchdog.remove_orphans()
    assert not description.exists()
