"""Faults of one cluster's engines, again and again: ``python tests/helpers/engine_cycles.py``.

Each cycle draws an act (an inference, a load, a save, a training), a fault, its victim and an
instant of the act.  Then the cluster is restarted, if it says so, and an inference must be equal to
that of before.  ``--cycles N --seed S`` draws N cycles.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import torch
from fault_list import OWN_RANKS
from fault_runs import SIGNALS, role
from torch import nn

import spnb
from spnb.driver.launch import watchdog

PATIENCE = 60
"""Seconds after which an act counts as one that hangs."""


@dataclass(frozen=True)
class Cycle:
    """An act, and the fault that comes to a victim after some seconds of it."""

    act: str
    fault: str
    victim: str
    delay: float
    carrier: str

    def __str__(self):
        return f"{self.carrier}: {self.fault} of {self.victim} {self.delay:.2f} s into {self.act}"


def drawn(number):
    """The cycle of a number."""
    chance = random.Random(number)
    victim = chance.choice(["caller", *OWN_RANKS])
    faults = [f for f in SIGNALS if ("Ctrl-C" in f) == (victim == "caller")]
    act = chance.choice(["infer", "infer", "load", "save", "train"])
    carrier = chance.choice(["mpi", "gloo"])
    return Cycle(act, chance.choice(faults), victim, round(chance.uniform(0, 1.2), 2), carrier)


class Hangs(BaseException):
    """Raised in an act that takes too long."""


class Cycles:
    """One cluster, on which cycles are carried out."""

    def __init__(self, folder):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))
        given = {"image_size": 160, "batch_size": 32, "parts": 32, "split_size": 1}
        given |= {"num_spatial_parts": 2, "deadline": 1}
        small = given | {"image_size": 24, "num_epochs": 2}
        self.jobs = {c: spnb.Job(network, backend=c, **given) for c in ("mpi", "gloo")}
        self.plans = {c: spnb.plan(job) for c, job in self.jobs.items()}
        self.training = {
            c: spnb.plan(spnb.Job(network, backend=c, **small), training=True) for c in self.jobs
        }
        self.file = Path(folder, "out.npy")
        self.cluster = spnb.Cluster(self.plans["mpi"], progress=False)
        self.wanted = self.cluster.infer().output

    def act(self, name, carrier):
        """An act of a user."""
        if name == "load":
            for _ in range(4):
                self.cluster.load(self.plans[carrier])
        elif name == "train":
            self.cluster.load(self.training[carrier])
            self.cluster.train()
        else:
            result = self.cluster.infer()
            if name == "save":
                result.save(self.file, overwrite=True)

    def carried_out(self, cycle):
        """What is wrong after a cycle, in words; and what was said."""
        self.cluster.load(self.plans[cycle.carrier])
        if (victim := self._victim(cycle)) is None:  # a run goes on without a nanny
            self.cluster.restart()
            victim = self._victim(cycle)
        before = self.cluster.engines._launch.processes
        sender = threading.Timer(cycle.delay, partial(_send, cycle, victim))
        sender.start()
        said = self._said(partial(self._act_until_it_came, cycle, sender))
        sender.join()
        if cycle.fault == "SIGSTOP" and "restart" not in said and watchdog.runs(victim):
            victim.send_signal(signal.SIGCONT)
        again = ""
        if "restart" in said or not self.cluster.engines.alive:
            again = self._said(self.cluster.restart)
        again = again or self._said(self._equal)
        if "restart" in again and not said:  # the act ended before the fault was noticed
            again = self._said(self.cluster.restart) or self._said(self._equal)
        wrong = [] if not again else [f"then: {again}"]
        if said.startswith(("Hangs", "AttributeError", "TypeError", "KeyError", "AssertionError")):
            wrong.append(said)
        if "\n" in said:
            wrong.append(f"several lines: {said!r}")
        now = self.cluster.engines._launch.processes
        if left := [p for p in before if p not in now and watchdog.runs(p)]:
            wrong.append(f"left: {left}")
        return wrong, said

    def _act_until_it_came(self, cycle, sender):
        while sender.is_alive():
            self.act(cycle.act, cycle.carrier)
        self.act(cycle.act, cycle.carrier)

    def _equal(self):
        self.cluster.load(self.plans["mpi"])
        assert torch.equal(self.cluster.infer().output, self.wanted)

    def _victim(self, cycle):
        if cycle.victim == "caller":
            return psutil.Process()
        every = self.cluster.engines._launch.processes
        return next((p for p in every if role(p) == cycle.victim), None)

    def _said(self, act):
        """What an act says when it fails; "" if it does not."""
        signal.alarm(PATIENCE)
        try:
            try:
                act()
            except KeyboardInterrupt:
                time.sleep(0.5)  # for a second one
                return "KeyboardInterrupt"
        except KeyboardInterrupt:
            return "KeyboardInterrupt"
        except (Exception, Hangs) as error:
            return f"{type(error).__name__}: {error}"
        finally:
            signal.alarm(0)
        return ""


def _send(cycle, victim):
    for k, number in enumerate(SIGNALS[cycle.fault]):
        time.sleep(0.1 * k)
        try:
            victim.send_signal(number)
        except psutil.NoSuchProcess:
            return


def _raise_hangs(*_):
    raise Hangs


def main(count, seed):
    """Carry out cycles; return how many had something wrong."""
    os.environ["TMPDIR"] = folder = tempfile.mkdtemp()
    tempfile.tempdir = folder
    signal.signal(signal.SIGALRM, _raise_hangs)
    # A shell lets background commands ignore it, and what they start inherits that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    files = Path("/dev/shm"), set(os.listdir("/dev/shm"))
    cycles, wrongs, said = Cycles(folder), 0, Counter()
    for number in range(seed, seed + count):
        cycle, start = drawn(number), time.monotonic()
        try:
            wrong, text = cycles.carried_out(cycle)
        except KeyboardInterrupt:  # the fault came after the act
            wrong, text = [], "KeyboardInterrupt"
        said[text.split(":")[0]] += 1
        wrongs += bool(wrong)
        seconds = time.monotonic() - start
        state = "; ".join(wrong) or "good"
        print(f"{number} {cycle}: {seconds:.1f} s, {text[:70]!r}, {state}", flush=True)
    cycles.cluster.stop()
    left = [name for name in os.listdir(folder) if name.startswith("spnb")]
    left += [name for name in os.listdir(files[0]) if name not in files[1]]
    print(f"{count} cycles, {wrongs} with something wrong; {dict(said)}; left: {left}")
    return wrongs + len(left)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    sys.exit(bool(main(args.cycles, args.seed)))
