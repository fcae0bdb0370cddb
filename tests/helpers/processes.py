"""Processes of other programs: where ``mpiexec`` is, and whatever a test left behind."""

import shutil
import sys
from pathlib import Path

import psutil

MPIEXEC = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or "mpiexec"


def processes_of(mark):
    """Whatever runs with a text, such as a folder of its own, in its command or environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if mark in " ".join([*process.cmdline(), *process.environ().values()]):
                found.append(process)
        except psutil.Error:
            continue
    return found
