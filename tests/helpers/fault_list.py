"""Which runs with a fault there are: those of the table, and those drawn by chance."""

from __future__ import annotations

import random
from dataclasses import replace

from fault_runs import SIGNALS, FaultRun

WAYS = ("Cluster", "shell", "mpiexec")
CARRIERS = ("mpi", "gloo")
MOMENTS = ("start", "load", "compute", "halo wait", "save", "training step", "checkpoint")
OWN_RANKS = ("rank 0", "rank 1", "nanny of rank 1", "controller", "scheduler", "guard", "mpiexec")
"""Victims where spnb starts the ranks, beside the caller."""

LAUNCHED = ("rank 0", "rank 1", "mpiexec's proxy")
"""Victims under mpiexec, which is the caller there."""


def victims(way):
    """The processes that a run of this way has."""
    return ("caller", *(LAUNCHED if way == "mpiexec" else OWN_RANKS))


def by_signal(way, moment, victim, carrier="mpi"):
    """Every fault of a victim: a terminal interrupts the caller alone."""
    return [
        FaultRun(way, fault, victim, moment, carrier)
        for fault in SIGNALS
        if victim == "caller" or "Ctrl-C" not in fault
    ]


def table():
    """The runs of the table.

    From Python, every fault of the caller and of a rank, kill -9 and SIGSTOP of every other process
    and three faults at every moment; in the other ways, those that may differ.
    """
    return list(dict.fromkeys([*from_python(), *from_shell(), *under_mpiexec()]))


def at_moments(way, fault, victim=""):
    """A fault at every moment, with both carriers in turn; of a rank, if no victim is named."""
    for k, moment in enumerate(MOMENTS):
        rank = "rank 0" if moment == "halo wait" else "rank 1"
        if moment == "start" and way != "mpiexec":  # no rank has started by then
            rank = "mpiexec"
        yield FaultRun(way, fault, victim or rank, moment, CARRIERS[k % 2])


def inside(way):
    """The faults that a process has by itself."""
    yield from (FaultRun(way, "exception", "rank 1", "compute", carrier) for carrier in CARRIERS)
    yield FaultRun(way, "full disk", "caller", "checkpoint")


def from_python():
    way = "Cluster"
    for victim in victims(way):
        every = by_signal(way, "compute", victim)
        yield from every if victim in ("caller", "rank 1") else every[:2]
    yield from at_moments(way, "kill -9")
    yield from at_moments(way, "Ctrl-C", "caller")
    yield from inside(way)


def from_shell():
    way = "shell"
    for fault in ("kill -9", "SIGTERM", "Ctrl-C", "Ctrl-C twice"):
        yield FaultRun(way, fault, "caller", "compute")
    for fault in ("kill -9", "SIGSTOP"):
        yield FaultRun(way, fault, "rank 1", "compute", "gloo")
    yield from (FaultRun(way, "kill -9", "caller", moment) for moment in ("save", "checkpoint"))
    yield from list(inside(way))[1:]


def under_mpiexec():
    way = "mpiexec"
    yield from by_signal(way, "compute", "caller")
    yield from (FaultRun(way, "SIGSTOP", f"rank {rank}", "compute") for rank in (0, 1))
    yield FaultRun(way, "kill -9", "mpiexec's proxy", "compute")
    yield from at_moments(way, "kill -9")
    yield FaultRun(way, "Ctrl-C", "caller", "training step", "gloo")
    yield from list(inside(way))[1:]


def drawn(number):
    """A run by its number: any fault of any victim at any moment, up to a second later."""
    chance = random.Random(number)
    way, moment = chance.choice(WAYS), chance.choice(MOMENTS)
    own = {run.moment: run for run in inside(way)}
    if moment in own and chance.random() < 0.1:
        return replace(own[moment], carrier=chance.choice(CARRIERS))
    victim = chance.choice(victims(way))
    run = chance.choice(by_signal(way, moment, victim, chance.choice(CARRIERS)))
    return FaultRun(way, run.fault, victim, moment, run.carrier, delay=round(chance.random(), 2))
