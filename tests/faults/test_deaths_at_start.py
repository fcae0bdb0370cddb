"""A process that dies while engines start: one line names it, at once, and nothing is left."""

import signal
import time

import pytest
from fault_runs import role
from processes import processes_of

from spnb.driver.launch import watchdog
from spnb.driver.launch.engines import Engines
from spnb.errors import StartError

AGAIN = ": run the command again"
KILLED = "a rank died (signal {}: killed, or out of memory?)" + AGAIN
DEATHS = {
    ("rank 1", signal.SIGKILL): KILLED.format(9),
    ("rank 0", signal.SIGTERM): KILLED.format(15),
    ("nanny of rank 1", signal.SIGKILL): "an engine failed: RuntimeError: nanny failed",
    ("mpiexec's proxy", signal.SIGKILL): "mpiexec lost the ranks of a host (killed?)" + AGAIN,
    ("mpiexec", signal.SIGKILL): "mpiexec died" + AGAIN,
    ("guard of the controller", signal.SIGKILL): "the ipyparallel controller died" + AGAIN,
    ("guard", signal.SIGKILL): "mpiexec died" + AGAIN,
    ("controller", signal.SIGKILL): "the ipyparallel controller died" + AGAIN,
}


@pytest.mark.slow
@pytest.mark.mpi
@pytest.mark.timeout(60)
@pytest.mark.parametrize(("victim", "number"), DEATHS)
def test_a_death_is_a_line(victim, number):
    engines, killed = Engines(2), []

    def kill(stage, ready, total):
        if killed or stage != "starting engines":
            return
        launch = engines._launch
        for process in watchdog.family(launch._leaders()):
            if role(process) == victim:
                watchdog.send(number, [process])
                killed.extend([launch.folder, time.monotonic()])
                return

    engines._on_progress = kill
    with pytest.raises(StartError) as caught:
        engines.start()
    folder, when = killed
    assert time.monotonic() < when + 20
    assert str(caught.value) == f"0 of 2 engines started, and {DEATHS[victim, number]}"
    assert not processes_of(folder)
