"""What ends the processes of engines."""

import os
import subprocess
import sys
import time

import psutil
from processes import processes_of

from spnb.driver import watchdog

SPAWNER = """
import subprocess, time
while True:
    subprocess.Popen(["sleep", "60"])
    time.sleep(0.002)
"""


def test_a_process_that_starts_others_leaves_none_behind():
    mark = f"SPNB_SPAWNER_{os.getpid()}"
    for _ in range(5):
        with subprocess.Popen([sys.executable, "-c", SPAWNER], env={mark: mark}) as spawner:
            leader = psutil.Process(spawner.pid)
            while not leader.children():
                time.sleep(0.01)
            watchdog.kill_family([leader])
        left = processes_of(mark)
        for process in left:
            process.kill()
        assert not left
