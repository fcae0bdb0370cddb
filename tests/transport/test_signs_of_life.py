"""Processes that do not answer, told from those that compute or wait."""

import os
import signal
import subprocess
import sys

from spnb.transport.signs_of_life import SignsOfLife


def watched(command, seconds, number=None):
    """Whether a process is missing, after each of some seconds of a clock that is not real."""
    now = [0.0]
    with subprocess.Popen(command) as process:
        try:
            if number is not None:
                process.send_signal(number)
                os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            signs = SignsOfLife({3: process.pid}, 60.0, lambda: now[0])
            found = []
            for now[0] in seconds:
                found.append(signs.missing())
            return found
        finally:
            process.kill()


def test_a_stopped_process_is_missing_after_the_deadline():
    looks = [1, 3, *range(5, 61, 2), 61]
    found = watched(["sleep", "60"], looks, signal.SIGSTOP)
    assert not any(found[:-1])
    assert found[-1] == [3]


def test_a_process_that_computes_or_sleeps_is_never_missing():
    for command in (["sleep", "60"], [sys.executable, "-c", "while True: pass"]):
        assert not any(watched(command, range(0, 1000, 2)))


def test_time_in_which_nobody_looked_does_not_count():
    found = watched(["sleep", "60"], [0, 2, 4, 3600, 7200], signal.SIGSTOP)
    assert not any(found)


def test_a_process_that_has_ended_is_not_missing():
    assert not any(watched(["sleep", "60"], range(0, 200, 2), signal.SIGKILL))
