"""A process of its own that repeats a step: it is timed, and its memory is measured.

The process reads a pickled request from its standard input, and then lines.  It answers each
``step`` with the seconds of a step, and each ``peak`` with its largest memory so far.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from ..runtime import process_memory

Step = Callable[[], Any]


class Unavailable(RuntimeError):
    """A process cannot run its step here; the message says why."""


class TimedProcess:
    """A process that prepares a step and repeats it when asked; it sleeps between two steps.

    Parameters
    ----------
    module
        The Python module that the process runs; it calls `serve`.
    request
        What the module is given; it must be picklable.
    environment
        Variables that the process gets in addition to this process's.

    Raises
    ------
    Unavailable
        If the process cannot prepare its step.
    """

    def __init__(self, module: str, request: object, environment: Mapping[str, str] | None = None):
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | dict(environment or {}),
        )
        assert self._process.stdin is not None and self._process.stdout is not None, (
            "both are pipes"
        )
        self._requests, self._answers = self._process.stdin, self._process.stdout
        try:
            pickled = pickle.dumps(request)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            self.stop()
            raise Unavailable(
                f"the network cannot be sent to another process ({error}): define it in a module,"
                ' and name it as "package.module:factory"'
            ) from None
        self._write(pickled)

    def prepared(self) -> float:
        """Wait until the first step was taken, and return the seconds of the preparation."""
        return float(self._answer()["prepare"])

    def begin_step(self) -> None:
        """Let the process begin a step; `end_step` waits for its end."""
        self._write(b"step\n")

    def end_step(self) -> float:
        """Wait for the end of a step, and return its seconds."""
        return float(self._answer()["seconds"])

    def step(self) -> float:
        """Run one step, and return its seconds."""
        self.begin_step()
        return self.end_step()

    def peak_bytes(self) -> int:
        """Return the most bytes of the process so far, above its idle state."""
        self._write(b"peak\n")
        return int(self._answer()["peak"])

    def stop(self) -> None:
        """End the process; safe to call again."""
        self._process.kill()
        self._process.communicate()

    def _write(self, data: bytes) -> None:
        try:
            self._requests.write(data)
            self._requests.flush()
        except BrokenPipeError:
            raise Unavailable("its process ended") from None

    def _answer(self) -> dict[str, Any]:
        line = self._answers.readline()
        answer = json.loads(line) if line else {"error": "its process ended"}
        if "error" in answer:
            self.stop()
            raise Unavailable(answer["error"])
        return answer


def serve(prepare: Callable[[Any], Step], *, with_first_step: bool = False) -> None:
    """Answer on standard output the requests on standard input.

    Parameters
    ----------
    prepare
        Returns the step that a request asks for.
    with_first_step
        Whether the peak includes the preparation and the first step, rather than later steps only.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries print to the error stream, so their output is not read as an answer

    def answer(**fields: Any) -> None:
        answers.write(json.dumps(fields) + "\n")

    request = pickle.load(sys.stdin.buffer)
    idle = process_memory.resident_bytes()
    start = time.perf_counter()
    try:
        step = prepare(request)
        process_memory.restart_peak()
        step()
    except Exception as error:
        reason = str(error).strip().splitlines() or [""]
        kind = "" if isinstance(error, Unavailable) else f"{type(error).__name__}: "
        answer(error=kind + reason[0])
        return
    answer(prepare=time.perf_counter() - start)
    if not with_first_step:
        process_memory.restart_peak()
    for line in sys.stdin.buffer:
        if line == b"peak\n":
            answer(peak=process_memory.peak_bytes() - idle)
            continue
        begin = time.perf_counter()
        step()
        answer(seconds=time.perf_counter() - begin)
