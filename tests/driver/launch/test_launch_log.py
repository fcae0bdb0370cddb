"""What a launch has printed, in one line: logs as MPICH 5 and Open MPI 5 write them."""

from spnb.driver.launch.launch_log import death_in, exception_in, last_lines

HYDRA = """
===================================================================================
=   BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES
=   PID 9880 RUNNING AT host
=   EXIT CODE: 15
=   CLEANING UP REMAINING PROCESSES
=   YOU CAN IGNORE THE BELOW CLEANUP MESSAGES
===================================================================================
YOUR APPLICATION TERMINATED WITH THE EXIT STRING: Terminated (signal 15)
This typically refers to a problem with your application.
Please see the FAQ page for debugging suggestions
"""
PRTE = """
--------------------------------------------------------------------------
prterun noticed that process rank 1 with PID 8127 on node host exited on
signal 9 (Killed).
--------------------------------------------------------------------------
"""
LOST = """
[mpiexec@host] control_cb (pm/hydra/mpiexec/pmiserv_cb.c:280): assert (!closed) failed
[mpiexec@host] main (pm/hydra/mpiexec/mpiexec.c:270): process manager error waiting for completion
"""
RAISED = """
2026-11-30 09:27:49.566 [IPEngine.1.1] Starting nanny
2026-11-30 09:27:49.999 [IPEngine.1.1] CRITICAL | Error completing registration: nanny failed
Traceback (most recent call last):
  File "ipyparallel/engine/app.py", line 563, in register
    await self.complete_registration(msg, connect, maybe_tunnel)
  File "ipyparallel/engine/nanny.py", line 289, in start_nanny
    raise RuntimeError("nanny failed")
RuntimeError: nanny failed
Abort(255) on node 1 (rank 1 in comm 0): application called MPI_Abort(MPI_COMM_WORLD, 255)
"""


def test_a_signal_is_named():
    assert death_in(HYDRA) == "a rank died (signal 15: killed, or out of memory?)"
    assert death_in(PRTE) == "a rank died (signal 9: killed, or out of memory?)"
    assert death_in(LOST) == "mpiexec lost the ranks of a host (killed?)"
    assert exception_in(HYDRA + PRTE + LOST) == ""


def test_an_exception_is_told_without_its_frames():
    assert exception_in(RAISED) == "RuntimeError: nanny failed"
    assert exception_in(RAISED + RAISED.replace("nanny failed", "no room")) == (
        "RuntimeError: no room"
    )
    assert death_in(RAISED) == ""


def test_other_logs_are_shown_by_their_end():
    log = "\n".join(f"line {k}" for k in range(20))
    assert death_in(log) == exception_in(log) == ""
    assert last_lines(log).splitlines() == [f"line {k}" for k in range(5, 20)]
