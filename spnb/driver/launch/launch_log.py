"""What engines and their launcher have printed, and what it says of their end."""

from __future__ import annotations

import re

CONTROLLER = "the ipyparallel controller"
MPIEXEC = "mpiexec"

RAISED = re.compile(r"^ .*\n([A-Za-z_][\w.]*(?:: .*)?)$", re.MULTILINE)
"""The last line of Python's traceback."""

SIGNALLED = re.compile(r"EXIT STRING: .* \(signal (\d+)\)|exited on\s+signal (\d+)")
"""What Hydra, or Open MPI, says of a rank that a signal ended."""

LOST = re.compile(
    r"^\[mpiexec@.*(?:assert \(!closed\) failed|error waiting for event)", re.MULTILINE
)
"""What Hydra says when the process between it and the ranks of a host has ended."""


def why_ended(program: str, log: str, advice: str) -> str:
    """Why controller or mpiexec has ended: a line, or the end of its log if that says more.

    Parameters
    ----------
    program
        `CONTROLLER` or `MPIEXEC`.
    log
        What it has printed.
    advice
        What to do if something was killed.

    Examples
    --------
    >>> why_ended(MPIEXEC, "", ": run the command again")
    'mpiexec died: run the command again'
    """
    if raised := exception_in(log):
        return f"{program if program == CONTROLLER else 'an engine'} failed: {raised}"
    if died := death_in(log):
        return f"{died}{advice}"
    if program == CONTROLLER or not log:
        return f"{program} died{advice}"
    return f"{program} ended; the end of its log:\n{last_lines(log)}"


def exception_in(log: str) -> str:
    """The exception that a process has raised, as Python printed it last; "" if there is none.

    What MPI says of the end that follows adds nothing to it.

    >>> exception_in("Traceback (most recent call last):\\n  a line\\nOSError: no MPI\\nAbort(255)")
    'OSError: no MPI'
    """
    raised = RAISED.findall(log)
    return raised[-1] if raised else ""


def death_in(log: str) -> str:
    """What mpiexec says of a rank that was killed, in a few words; "" if it does not.

    >>> death_in("YOUR APPLICATION TERMINATED WITH THE EXIT STRING: Killed (signal 9)")
    'a rank died (signal 9: killed, or out of memory?)'
    """
    if signalled := SIGNALLED.search(log):
        number = signalled[1] or signalled[2]
        return f"a rank died (signal {number}: killed, or out of memory?)"
    return "mpiexec lost the ranks of a host (killed?)" if LOST.search(log) else ""


def last_lines(log: str) -> str:
    """The end of what a process printed.

    >>> last_lines("")
    '(empty)'
    """
    return "\n".join(log.splitlines()[-15:]) or "(empty)"
