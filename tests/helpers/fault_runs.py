"""Runs of spnb in which something fails: a fault, a victim, a moment, a way to start.

Each is the same small job, held at the moment by `faulty/sitecustomize.py`.  After the fault the
run must end, or go on; say one line; leave no process and no file; and the next run must work.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import psutil
import torch
from processes import MPIEXEC, processes_of

from spnb.driver.launch import watchdog

ROOT = Path(__file__).parents[2]
FAULTY = Path(__file__).parent / "faulty"
TRAINING = ("training step", "checkpoint")
"""Moments of a training; the others are of an inference."""

HOLD = 4.0
"""Seconds for which the run is held at its moment."""

PATIENCE = 40.0
"""Seconds after a fault in which a run must end."""

GRACE = 12.0
"""Seconds after its end in which all of its processes must end."""

STOPPED = 2.5
"""Seconds after which a stopped caller goes on, as after Ctrl-Z and `fg`."""

SIGNALS = {
    "kill -9": [signal.SIGKILL],
    "SIGSTOP": [signal.SIGSTOP],
    "SIGTERM": [signal.SIGTERM],
    "SIGHUP": [signal.SIGHUP],
    "Ctrl-C": [signal.SIGINT],
    "Ctrl-C twice": [signal.SIGINT, signal.SIGINT],
}
INSIDE = ("exception", "full disk")
"""Faults that a process has by itself, at the moment that it is held."""


@dataclass(frozen=True)
class FaultRun:
    """A run, and its fault.

    Attributes
    ----------
    way
        How it is started: "Cluster" (from Python), "shell" or "mpiexec".
    fault, victim
        What comes, a key of `SIGNALS` or one of `INSIDE`; and to which process, as `role` names it.
    moment
        When, a key of `sitecustomize.PLACES`; at "halo wait" rank 1 computes and rank 0 waits.
    carrier
        What carries tensors.
    delay
        Seconds between the moment and the fault.
    """

    way: str
    fault: str
    victim: str
    moment: str
    carrier: str = "mpi"
    delay: float = 0.2

    def __str__(self):
        return f"{self.way}, {self.carrier}: {self.fault} of {self.victim} at {self.moment}"

    @property
    def verb(self):
        return "train" if self.moment in TRAINING else "infer"

    @property
    def command(self):
        options = {"batch_size": 2, "parts": 2, "split_size": 1, "num_spatial_parts": 2}
        options |= {"image_size": 64, "backend": self.carrier, "deadline": 1}
        if self.verb == "train":
            options |= {"num_epochs": 2, "image_size": 16, "checkpoint": "weights.pth"}
        if self.way == "Cluster":
            return [sys.executable, str(FAULTY / "in_python.py"), self.verb, json.dumps(options)]
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        spnb = [sys.executable, "-m", "spnb", self.verb, "faulty_net:make", *flags]
        if self.verb == "infer":
            spnb += ["--save-output", "out.npy", "--overwrite"]
        return [MPIEXEC, "-n", "2", *spnb] if self.way == "mpiexec" else spnb


@dataclass
class Outcome:
    """What became of a run.

    Attributes
    ----------
    seconds
        From the fault to the error, or to the end of the run.
    said
        The line that it said, if any.
    code
        Its exit code.
    wrong
        What ought not to be, in words.
    """

    seconds: float = 0.0
    said: str = ""
    code: int | None = None
    wrong: list[str] = field(default_factory=list)


def role(process):
    """What a process is in a run: a victim's name, or "" for others."""
    try:
        words, rank = process.cmdline(), process.environ().get("PMI_RANK")
    except psutil.Error:
        return ""
    line = " ".join(words)
    if "watchdog.py" in line:
        return "guard" if "mpiexec" in line else "guard of the controller"
    if Path(words[0]).name.startswith("mpiexec") if words else False:
        return "mpiexec"
    if "hydra_pmi_proxy" in line:
        return "mpiexec's proxy"
    if rank is None:
        return _role_beside_ranks(process, words)
    if "ipyparallel.engine" in words or "spnb" in words:
        return f"rank {rank}"
    return f"nanny of rank {rank}" if "ipyparallel" in line else ""


def _role_beside_ranks(process, words):
    if not any(Path(word).name == "controller.py" for word in words[1:3]):
        return ""
    try:
        above = process.parent().cmdline()
    except (psutil.Error, AttributeError):  # it has ended
        return ""
    return "controller" if any("watchdog.py" in word for word in above) else "scheduler"


class _Running:
    """A command that runs, and what it has printed."""

    def __init__(self, run, folder, held):
        environment = dict(os.environ)
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # each start would compile the package
        self.mark = str(folder)
        environment |= {
            "PYTHONPATH": os.pathsep.join([str(FAULTY), str(ROOT)]),
            "FAULT_FOLDER": self.mark,
            "TMPDIR": str(folder / "tmp"),
        }
        if held:
            moment = "compute" if run.moment == "halo wait" else run.moment
            environment |= {"FAULT_MOMENT": moment, "FAULT_SECONDS": str(HOLD)}
            if run.fault in INSIDE:
                environment["FAULT_INSIDE"] = run.fault
        self.started = subprocess.Popen(
            run.command,
            env=environment,
            cwd=folder / "work",
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a signal of a terminal goes to all of it
        )
        self.lines, self.failed = [], threading.Event()
        self.errors = []
        self._readers = [
            threading.Thread(target=self._read, args=(self.started.stdout, self.lines)),
            threading.Thread(target=self._read, args=(self.started.stderr, self.errors)),
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream, lines):
        for line in stream:
            lines.append(line.rstrip("\n"))
            if line.startswith("failed: "):
                self.failed.set()

    def wait(self, seconds):
        """Wait for the end of the command; return whether it came."""
        try:
            self.started.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def read_all(self):
        for reader in self._readers:
            reader.join(5)

    def living(self):
        return [p for p in processes_of(self.mark) if watchdog.runs(p)]

    def end(self):
        """Kill whatever is left; return it, as texts."""
        end, left = time.monotonic() + GRACE, self.living()
        while left and time.monotonic() < end:
            time.sleep(0.1)
            left = self.living()
        told = [
            f"{role(p)} {p.pid} {' '.join(p.cmdline())[:150]}" for p in left if watchdog.runs(p)
        ]
        for process in left:
            process.kill()
        self.read_all()
        return told


def carried_out(run, folder):
    """Carry out a run with its fault, and the run after it, in an empty folder."""
    (folder / "tmp").mkdir(parents=True)
    (folder / "work").mkdir()
    before = np.zeros(3)
    np.save(folder / "work" / "out.npy", before)
    outcome = Outcome()
    running = _Running(run, folder, held=True)
    try:
        files = _with_fault(run, running, folder, outcome)
    finally:
        left = running.end()
    if left:
        outcome.wrong.append(f"left: {left}")
    _judge(run, running, outcome)
    output = folder / "work" / "out.npy"
    try:
        found = np.load(output)
        if run.verb == "infer" and not (
            np.array_equal(found, before) or np.array_equal(found, reference("infer"))
        ):
            outcome.wrong.append("the output is neither old nor new")
    except (OSError, ValueError) as error:
        outcome.wrong.append(f"the output is lost: {error}")
    # In Python the next run comes from the same process, if that is there.
    if run.way != "Cluster" or running.lines[-1:] != ["done"]:
        _next_run(run, folder, outcome)
    _look_at_result(run, folder, outcome)
    # While MPI starts, its files have names; a start ten minutes later removes what stays of them.
    if run.moment != "start" and (kept := [file for file in files if Path(file).exists()]):
        outcome.wrong.append(f"files of MPI stay: {kept}")
    return outcome


def _with_fault(run, running, folder, outcome):
    """Let the fault come; return the files that MPI had then."""
    reached, end = folder / "reached", time.monotonic() + 3 * PATIENCE
    while not reached.exists():
        if time.monotonic() > end or running.started.poll() is not None:
            running.wait(0.1)
            outcome.wrong.append(f"the moment never came: {running.errors[-1:]}")
            return set()
        time.sleep(0.02)
    time.sleep(run.delay)
    victim = None
    while run.fault not in INSIDE and victim is None:
        victim = _victim(run, running)
        if time.monotonic() > end or running.started.poll() is not None:
            outcome.wrong.append(f"no {run.victim} runs")
            return set()
    files = watchdog.files_of_mpi(running.living())
    start = time.monotonic()
    if victim is not None:
        _send(run, victim)
    while running.started.poll() is None and not running.failed.is_set():
        if time.monotonic() > start + PATIENCE:
            outcome.wrong.append("hangs")
            break
        time.sleep(0.02)
    outcome.seconds = time.monotonic() - start
    if not running.wait(PATIENCE):
        outcome.wrong.append("does not end")
        running.started.kill()
    return files


def _victim(run, running):
    if run.victim == "caller":
        return psutil.Process(running.started.pid)
    return next((p for p in running.living() if role(p) == run.victim), None)


def _send(run, victim):
    """Send the fault's signals; those of a terminal go to all processes of the caller's group."""
    for k, number in enumerate(SIGNALS[run.fault]):
        if k:
            time.sleep(0.3)
        try:
            if run.victim == "caller" and number in (signal.SIGINT, signal.SIGHUP):
                os.killpg(victim.pid, number)
            else:
                victim.send_signal(number)
        except (psutil.NoSuchProcess, ProcessLookupError):
            return
    if run.fault == "SIGSTOP" and goes_on_when_continued(run):
        time.sleep(STOPPED)
        victim.send_signal(signal.SIGCONT)


def goes_on_when_continued(run):
    """Whether the victim is what a user stops by Ctrl-Z."""
    return run.victim == "caller"


def must_end(run):
    """Whether a run cannot go on after its fault; None if that depends on the instant."""
    if run.moment == "checkpoint" and run.way != "mpiexec" and run.victim != "caller":
        return False  # it is the last one, and the training is done
    if (run.victim, run.fault, run.moment) == ("mpiexec", "SIGSTOP", "start"):
        return None  # engines that have not started need it
    if run.fault == "SIGSTOP":
        return run.victim.startswith(("rank", "controller", "scheduler", "mpiexec's proxy"))
    if (run.victim, run.fault) == ("mpiexec's proxy", "SIGTERM"):
        return False  # MPICH's proxy ignores it
    ignored = run.fault == "SIGHUP" and run.victim.startswith("rank")  # MPICH catches it
    # These are needed only if something else fails.
    spare = run.victim == "nanny of rank 1" or (run.victim, run.fault) == ("guard", "kill -9")
    if ignored or spare:
        return None if run.moment == "start" else False  # an engine that begins needs them
    return True


def _judge(run, running, outcome):
    """Look at what the run has said."""
    outcome.code = running.started.returncode
    failed = [line for line in running.lines if line.startswith("failed: ")]
    told = [line for line in running.errors if line.strip() and not line.startswith("[mpiexec@")]
    if run.way == "Cluster":
        outcome.said = failed[0].removeprefix("failed: ") if failed else ""
    else:
        outcome.said = next((line for line in told if line.startswith("spnb: ")), "")
    outcome.said = in_short(outcome.said)
    ended = bool(outcome.code or outcome.said)
    if ended != must_end(run) is not None:
        outcome.wrong.append(f"{'ends' if ended else 'goes on'}: {outcome.code} {outcome.said!r}")
    silent = run.victim == "caller" and run.fault in ("kill -9", "SIGTERM", "SIGHUP")
    if ended and not (outcome.said or silent or run.way == "mpiexec"):  # MPI says it there
        outcome.wrong.append("says nothing")
    if any("Traceback" in line for line in told):
        outcome.wrong.append("traceback: " + " / ".join(told[-6:]))
    elif len(told) > 1 or (told and not outcome.said):
        outcome.wrong.append("also says " + repr([t for t in told if t != outcome.said][:6]))


def in_short(said):
    """What a run said, without the names of host and folder, and without its way out.

    >>> in_short("spnb: rank 1 of 2 died on host3 (killed, or out of memory?), and MPI ends all")
    'rank 1 of 2 died'
    """
    said = re.sub(r"^spnb: | on \S+(?= \()", "", said)
    said = re.sub(r"/\S*/", "", said)
    return re.sub(r" \(.*|: (run the command|name another).*", "", said).rstrip(": ")


def _next_run(run, folder, outcome):
    """Run it again as a user would."""
    again = _Running(run, folder, held=False)
    if not again.wait(2 * PATIENCE):
        outcome.wrong.append("the next run hangs")
    left = again.end()
    told = [line for line in again.errors if line.strip()]
    failed = [line for line in again.lines if line.startswith("failed: ")]
    if again.started.returncode or left or told or failed:
        outcome.wrong.append(f"the next run: {again.started.returncode}, {failed}, {told}, {left}")


def _look_at_result(run, folder, outcome):
    """Compare the result of the next run; nothing else may be left by now."""
    try:
        equal = np.array_equal(_result(folder, run.verb), reference(run.verb))
    except (OSError, ValueError, RuntimeError) as error:
        equal = False
        outcome.wrong.append(f"no result: {error}")
    if not equal:
        outcome.wrong.append("the next run has another result")
    # PyTorch keeps a cache there, and others keep theirs.
    if kept := sorted(name for name in os.listdir(folder / "tmp") if name.startswith("spnb")):
        outcome.wrong.append(f"temporary files stay: {kept}")
    known = {"out.npy", "weights.pth", "__pycache__"}
    if kept := sorted(set(os.listdir(folder / "work")) - known):
        outcome.wrong.append(f"files stay beside the output: {kept}")


def _result(folder, verb):
    """The output that a run has saved, or its trained weights in a row."""
    if verb == "infer":
        return np.load(folder / "work" / "out.npy")
    state = torch.load(folder / "work" / "weights.pth", weights_only=True)
    weights = [value.numpy().ravel() for value in state["model"].values()]
    return np.concatenate([*weights, [state["epoch"]]])


@cache
def reference(verb):
    """The result of a run without a fault."""
    run = FaultRun("mpiexec", "", "", "compute" if verb == "infer" else "checkpoint")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tmp").mkdir()
        (folder / "work").mkdir()
        running = _Running(run, folder, held=False)
        assert running.wait(PATIENCE), running.end()
        assert not running.end()
        assert running.started.returncode == 0, running.errors
        return _result(folder, verb)
