"""Engines in one MPI world: called, interrupted, killed, started anew."""

import os
import signal
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import ipyparallel as ipp
import psutil
import pytest
from processes import processes_of

from spnb.driver.launch.engine_calls import PATIENCE
from spnb.driver.launch.engines import Engines
from spnb.errors import EngineDied, EngineError, EngineTimeout, StartError

pytestmark = pytest.mark.mpi


@pytest.fixture(scope="module")
def engines():
    engines = Engines(3)
    engines.start()
    yield engines
    engines.stop()


def test_an_answer_that_was_lost_keeps_nobody_waiting(engines):
    engines._calls.results = [Future()]  # of something that the engine has done
    assert sorted(engines.call(abs, [(-1,), (-2,), (3,)])) == [1, 2, 3]


def act(what):
    """What a rank does in these tests; not imported by the engines, but sent."""
    import os
    import time

    from ipyparallel.datapub import publish_data
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    if what == "rank":
        return world.rank
    if what == "pid":
        return os.getpid()
    if what == "publish":
        publish_data({"done": world.rank})
        time.sleep(0.5)
        return world.rank
    if what == "wait":  # politely, for a message that never comes
        request = world.Irecv(bytearray(1), source=MPI.ANY_SOURCE, tag=77)
        try:
            while not request.Test():
                time.sleep(0.0005)
        finally:
            request.Cancel()
            request.Wait()
    if what == "peer failed":
        raise type("PeerFailed", (RuntimeError,), {})("rank 2 failed")
    if what == "fail late":
        time.sleep(0.2)
    raise ValueError(f"bad {what}")


act.__module__ = "__main__"


def works(engines):
    return engines.call(act, [("rank",)] * 3) == [0, 1, 2]


def waits(engines, after):
    """How long a call of waiting ranks lasts; something happens to them meanwhile."""
    timer = threading.Timer(0.5, after)
    timer.start()
    start = time.monotonic()
    try:
        engines.call(act, [("wait",)] * 3)
    finally:
        timer.join()
        waits.seconds = time.monotonic() - start - 0.5


def test_ranks_are_in_order_and_in_one_world(engines):
    assert len(engines.ids) == len(engines.hosts) == 3
    assert engines.alive
    assert works(engines)
    assert engines.view.apply(act, "rank") == [0, 1, 2]


def listening(process):
    """The addresses at which a process can be reached."""
    return {c.laddr for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN}


def test_ranks_of_one_host_listen_on_no_network(engines):
    processes = engines._launch.processes
    (mpiexec,) = (process for process in processes if process.name().startswith("mpiexec"))
    own = set().union(*(listening(process) for process in processes)) - listening(mpiexec)
    assert {address.ip for address in own} == {"127.0.0.1"}


def test_a_call_of_fewer_ranks_than_engines(engines):
    assert engines.call(act, [("rank",)] * 2) == [0, 1]
    with pytest.raises(ValueError, match="arguments for 4 ranks, but 3 engines"):
        engines.call(act, [("rank",)] * 4)


def test_the_client_keeps_no_result_of_a_call(engines):
    before = set(engines.client.results)
    assert works(engines)
    with pytest.raises(EngineError):
        engines.call(act, [("fail",)] * 3)
    assert set(engines.client.results) == before


def test_what_ranks_publish_is_seen_during_the_call(engines):
    seen = []
    engines.call(act, [("publish",)] * 3, poll=seen.append)
    assert [{"done": rank} for rank in range(3)] in seen


@pytest.mark.parametrize("rank", range(3))
def test_an_exception_frees_the_ranks_that_wait(engines, rank):
    whats = [("wait",)] * 3
    whats[rank] = ("apple",)
    start = time.monotonic()
    with pytest.raises(EngineError, match=f"^rank {rank}: ValueError: bad apple$") as caught:
        engines.call(act, whats)
    assert time.monotonic() - start < PATIENCE  # freed, not given up
    assert (caught.value.rank, caught.value.name) == (rank, "ValueError")
    assert "bad apple" in caught.value.traceback
    assert works(engines)


def test_the_cause_is_raised_and_not_its_consequence(engines):
    with pytest.raises(EngineError, match="rank 2: ValueError: bad fail late"):
        engines.call(act, [("peer failed",), ("wait",), ("fail late",)])
    with pytest.raises(EngineError, match="rank 0: PeerFailed"):
        engines.call(act, [("peer failed",)])
    assert works(engines)


def test_many_failures_in_a_row_leave_working_engines(engines):
    for round_ in range(10):
        with pytest.raises(EngineError):
            engines.call(act, [("fail late",), ("fail",), ("fail late",)])
        assert works(engines), round_


def test_keyboard_interrupt_frees_the_ranks(engines):
    with pytest.raises(KeyboardInterrupt):
        waits(engines, lambda: os.kill(os.getpid(), signal.SIGINT))
    assert waits.seconds < PATIENCE  # freed, not given up
    assert works(engines)


def test_a_deadline_frees_the_ranks(engines):
    with pytest.raises(EngineTimeout, match=r"ranks \[0, 2\] did not answer within 0.5 s"):
        engines.call(act, [("wait",), ("rank",), ("wait",)], timeout=0.5)
    assert works(engines)


def test_a_cell_that_fails_just_before_a_call_does_not_disturb_it(engines):
    for pause in (0, 0.2):
        cell = f"import time; time.sleep({pause}); 1 / 0"
        engines.client[engines.ids[1]].execute(cell, block=False)
        assert works(engines)


def test_a_signal_to_idle_engines_does_not_disturb_them(engines):
    for _ in range(20):
        engines.client.send_signal(signal.SIGINT, list(engines.ids), block=True)
    assert works(engines)


def test_a_client_of_the_users_own(engines):
    adopted = Engines.adopt(engines.client)
    assert adopted.ids == engines.ids
    assert works(adopted)
    assert not adopted.ensure(2)
    with pytest.raises(RuntimeError, match="needs 5 new engines, but the client of 3"):
        adopted.ensure(5)
    with pytest.raises(RuntimeError, match="your own"):
        adopted.restart()
    view = adopted.view
    adopted.stop()
    assert not adopted.alive
    view.execute("mine = 1", block=True)  # they go on, and so do cells
    assert view["mine"] == [1] * len(view)
    assert works(engines)


@pytest.mark.slow
def test_two_at_once_more_engines_and_no_trace_left(engines):
    other = Engines(1)
    other.start()
    assert not other.ensure(1)
    assert other.ensure(2)
    folder = other._launch.folder
    assert len(other.ids) == 2
    assert len(processes_of(folder)) > 4
    assert os.stat(folder).st_mode & 0o777 == 0o700
    other.stop()
    other.stop()
    assert not processes_of(folder)
    assert not Path(folder).exists()
    with pytest.raises(EngineDied, match="stopped"):
        other.call(act, [("rank",)])
    assert works(engines)


def test_a_killed_engine_is_named_and_engines_start_anew(engines):
    pid = engines.call(act, [("pid",)] * 3)[1]
    folder = engines._launch.folder
    with pytest.raises(EngineDied, match=r"rank.*1.* of 3 died on .*cluster.restart\(\)"):
        waits(engines, lambda: os.kill(pid, signal.SIGKILL))
    assert waits.seconds < PATIENCE  # freed, not given up
    assert not engines.alive
    engines.restart()
    assert works(engines)
    assert not processes_of(folder)


@pytest.mark.slow(but_each=3)
@pytest.mark.parametrize("number", [3, 0, 1])  # one of its schedulers, its watchdog, itself
def test_a_killed_controller_is_named(engines, number):
    with pytest.raises(EngineDied, match="controller died"):
        waits(engines, engines._launch.controller[number].kill)
    assert waits.seconds < PATIENCE  # freed, not given up
    engines.restart()
    assert works(engines)


def test_engines_of_no_common_world_are_refused(tmp_path):
    cluster = ipp.Cluster(
        n=2,
        delay=0,
        profile_dir=str(tmp_path),
        controller_args=["--HeartMonitor.period=500", "--nodb"],
    )
    with cluster as client, pytest.raises(StartError, match=r"MPI worlds of \[1, 1\] ranks"):
        Engines.adopt(client)


@pytest.mark.timeout(60)
def test_a_stopped_controller_is_named(engines):
    engines.change_deadline(1.0)
    scheduler = engines._launch.controller[3]
    with pytest.raises(EngineTimeout, match=r"controller does not answer for 1 s \(stopped"):
        waits(engines, scheduler.suspend)
    assert waits.seconds < PATIENCE
    scheduler.resume()
    engines.change_deadline(60.0)
    assert works(engines)


@pytest.fixture
def hasty(engines):
    """The same engines, of which one that is stopped is told after a second."""
    hasty = Engines.adopt(engines.client)
    hasty.change_deadline(1.0)
    yield hasty
    engines.client.send_signal(signal.SIGCONT, list(engines.ids), block=True)
    assert works(hasty)


@pytest.mark.timeout(60)
def test_a_stopped_engine_is_named_and_a_program_ends(hasty):
    pid = hasty.call(act, [("pid",)] * 3)[1]
    told = r"rank 1 does not answer for 1 s \(stopped, or swapping\?\).*cluster.restart\(\)"
    with pytest.raises(EngineTimeout, match=told):
        waits(hasty, lambda: os.kill(pid, signal.SIGSTOP))
    assert waits.seconds < PATIENCE


@pytest.mark.timeout(60)
def test_a_notebook_waits_for_a_stopped_engine(hasty, monkeypatch, capsys):
    monkeypatch.setattr("spnb.driver.launch.engine_calls.notebook", object)
    pid = hasty.call(act, [("pid",)] * 3)[1]
    os.kill(pid, signal.SIGSTOP)
    threading.Timer(2.5, os.kill, (pid, signal.SIGCONT)).start()
    assert works(hasty)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("spnb: rank 1 does not answer for 1 s (stopped, or swapping?): the run")
