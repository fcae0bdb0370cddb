"""Every Python process of a run of `fault_runs` imports this, and holds at the run's moment.

The moment is a function of spnb.  Rank 1, or the process that has no rank, tells by a file that it
is there, and goes on after some seconds, in which a fault comes from outside; some faults are made
here.  It holds once: the run after a fault is like any other.
"""

import os
import sys
import time
from functools import wraps
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from pathlib import Path

PLACES = {  # the function of each moment, the call of it that holds, and the rank, if not all
    "start": ("spnb.driver.launch.processes", "Launch._start_engines", 1, ""),
    "start of a rank": ("spnb.driver.mpi_launch", "MPIRanks.__init__", 1, "1"),
    "load": ("spnb.engine.rank", "Rank.load", 1, "1"),
    "compute": ("spnb.runtime.trace", "Recorder.note", 3, "1"),
    "save": ("spnb.io.writing.writers", "Store.write", 1, "1"),
    "training step": ("spnb.training.step", "_Passes.backward", 6, "1"),
    "checkpoint": ("spnb.driver.training.checkpoint", "os.fsync", 2, ""),
    "checkpoint on a full disk": ("spnb.driver.training.checkpoint", "Checkpoint.save", 2, ""),
}


def hold(moment, seconds):
    """Tell that a moment is reached, and compute, unless it was reached before."""
    try:
        Path(os.environ["FAULT_FOLDER"], "reached").touch(exist_ok=False)
    except FileExistsError:
        return
    fault = os.environ.get("FAULT_INSIDE")
    if fault == "exception":
        raise ValueError("a module that fails on one tile")
    if fault == "full disk":
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        return
    end = time.monotonic() + (0 if moment == "start" else seconds)
    while time.monotonic() < end:
        sum(range(10_000))


def hold_in(module, moment, seconds):
    """Let a function of a module hold."""
    _, path, at, _ = PLACES[moment]
    *owners, name = path.split(".")
    owner = module
    for each in owners:
        owner = getattr(owner, each)
    real, calls = getattr(owner, name), [0]

    @wraps(real)
    def holding(*args, **kwargs):
        calls[0] += 1
        if calls[0] == at:
            hold(moment, seconds)
        return real(*args, **kwargs)

    setattr(owner, name, holding)


class HoldingFinder(MetaPathFinder):
    """Finds the module of a moment as others do, and changes it after its import."""

    def __init__(self, moment, seconds):
        self.moment, self.seconds = moment, seconds

    def find_spec(self, fullname, path=None, target=None):
        if fullname != PLACES[self.moment][0]:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            hold_in(module, self.moment, self.seconds)

        spec.loader.exec_module = exec_module
        return spec


if moment := os.environ.get("FAULT_MOMENT"):
    rank = os.environ.get("PMI_RANK", "")
    if moment == "start" and rank:
        moment = "start of a rank"
    if moment == "checkpoint" and os.environ.get("FAULT_INSIDE") == "full disk":
        moment = "checkpoint on a full disk"
    if PLACES[moment][3] in ("", rank):
        sys.meta_path.insert(0, HoldingFinder(moment, float(os.environ["FAULT_SECONDS"])))
