"""Ctrl-C in a shell: every process ends at once, with one line and the code of an interrupt."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from processes import MPIEXEC, processes_of

LINE = (
    "infer unet --image-size 1024 --batch-size 32 --parts 32 --split-size 1 --num-spatial-parts 2"
)


def interrupted(command, folder, after):
    """The exit code, the seconds to the end, and the lines of spnb after an interrupt."""
    environment = os.environ | {"PYTHONPATH": f"{Path(__file__).parents[2]}", "MARK": str(folder)}
    started = subprocess.Popen(
        command,
        env=environment,
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # the interrupt goes to all of a session, as in a terminal
    )
    after(started)
    start = time.monotonic()
    os.killpg(started.pid, signal.SIGINT)
    _, errors = started.communicate(timeout=30)
    seconds = time.monotonic() - start
    _, alive = psutil.wait_procs(processes_of(str(folder)), timeout=1)
    assert not alive
    assert "Traceback" not in errors
    assert "MPICH" not in errors  # it tells of messages that an interrupt left
    assert [line for line in errors.splitlines() if "spnb" in line] == ["spnb: interrupted"]
    return started.returncode, seconds


def in_computation(started):
    for line in started.stdout:
        if line.startswith("weights:"):
            break
    time.sleep(4)


@pytest.mark.slow
@pytest.mark.mpi
def test_an_interrupt_in_a_computation_ends_all_ranks_of_mpiexec(tmp_path):
    command = [MPIEXEC, "-n", "2", sys.executable, "-m", "spnb", *LINE.split()]
    code, seconds = interrupted(command, tmp_path, in_computation)
    assert code == 130
    assert seconds < 3


STUBBORN = """
import time
from spnb.driver.launch.interrupts import end_after_an_interrupt

end_after_an_interrupt()
words = ["weights: none"]
while True:
    try:
        while words:
            print(words.pop(), flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        pass
"""


def test_a_process_that_goes_on_after_an_interrupt_is_ended(tmp_path):
    def ready(started):
        assert started.stdout.readline() == "weights: none\n"

    code, seconds = interrupted([sys.executable, "-c", STUBBORN], tmp_path, ready)
    assert code == 130
    assert seconds < 3


def test_an_interrupt_while_packages_are_imported_is_a_line(tmp_path):
    (tmp_path / "torch.py").write_text(
        "import time\n"
        "print('weights: not yet', flush=True)\n"
        "try:\n"
        "    time.sleep(60)\n"
        "except BaseException:\n"
        "    raise ImportError('a library in C was interrupted') from None\n"
    )
    command = [sys.executable, "-m", "spnb", *LINE.split()]

    def ready(started):
        assert started.stdout.readline() == "weights: not yet\n"

    code, seconds = interrupted(command, tmp_path, ready)
    assert code == 130
    assert seconds < 3


REMOVED = """
import os, signal, time, weakref
from spnb.driver.launch.interrupts import interrupts_not_lost

class Removed:
    pass

def interrupted(_):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(1)

with interrupts_not_lost():
    removed = Removed()
    told = weakref.ref(removed, interrupted)
    try:
        del removed
        time.sleep(5)
        print("lost")
    except KeyboardInterrupt:
        print("interrupted")
"""


def test_an_interrupt_while_an_object_is_removed_is_not_lost():
    """Python would print it with a traceback, and go on."""
    done = subprocess.run([sys.executable, "-c", REMOVED], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("interrupted\n", "")
