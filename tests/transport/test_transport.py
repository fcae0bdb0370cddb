"""The carriers' contract: order, failure, deadline, politeness."""

import os
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path

import pytest
import torch
from processes import MPIEXEC

import spnb
from spnb.errors import PeerFailed, WaitTimeout
from spnb.transport.local import LocalTransport, World


def test_messages_of_one_tag_arrive_in_order():
    def work(transport):
        if transport.rank == 0:
            for k in range(5):
                transport.send(1, 7, torch.full((2,), float(k)))
            return None
        buffers = [torch.empty(2) for _ in range(5)]
        for buffer in buffers:
            transport.wait([transport.receive(0, 7, buffer)])
        return [float(buffer[0]) for buffer in buffers]

    assert World(2).run(work)[1] == [0, 1, 2, 3, 4]


def test_a_message_that_comes_while_its_box_is_made_is_not_lost():
    """A switch of threads in between is rare: here the box itself makes the other rank send."""
    world, sending = World(2, deadline=2), []

    def box():
        if not sending:
            send = LocalTransport(world, 0).send
            sending.append(threading.Thread(target=send, args=(1, 7, torch.ones(2))))
            sending[0].start()
            sending[0].join(0.2)
        return deque()

    world.boxes.default_factory = box
    receiver, buffer = LocalTransport(world, 1), torch.zeros(2)
    arrival = receiver.receive(0, 7, buffer)
    sending[0].join()
    receiver.wait([arrival])
    assert buffer.tolist() == [1, 1]


def test_a_failure_frees_who_waits_and_is_the_one_that_is_raised():
    def work(transport):
        transport.barrier()
        if transport.rank == 2:
            transport.fail("rank 2: too hot")
            raise ValueError("too hot")
        with pytest.raises(PeerFailed, match="rank 2: too hot"):
            transport.wait([transport.receive(2, 0, torch.empty(1))])

    start = time.monotonic()
    with pytest.raises(ValueError, match="too hot"):
        World(3, deadline=30).run(work)
    assert time.monotonic() - start < 20


def test_a_failure_before_the_barrier_frees_those_at_it():
    def work(transport):
        if transport.rank == 0:
            transport.fail("no start")
            raise ValueError("no start")
        transport.barrier()

    with pytest.raises(ValueError, match="no start"):
        World(3, deadline=30).run(work)


def test_a_deadline_names_who_is_late():
    def work(transport):
        if transport.rank == 0:
            transport.wait([transport.receive(1, 0, torch.empty(1))])

    with pytest.raises(WaitTimeout, match=r"nothing from ranks \[1\] for 0.2 s"):
        World(2, deadline=0.2).run(work)


def test_a_polite_wait_sleeps_ever_longer_and_looks_around():
    from spnb.transport.waiting import politely

    calls = []
    start = time.perf_counter()

    def done():
        calls.append(time.perf_counter() - start)
        return calls[-1] > 0.2

    assert politely(done, lambda: None, 60)
    late = [t for t in calls if 0.1 < t < 0.2]
    assert len(late) < 110  # a millisecond's sleep between two tests
    assert not politely(lambda: False, lambda: None, 0.05)

    def hears():
        raise PeerFailed("rank 1: failed")

    with pytest.raises(PeerFailed):
        politely(lambda: False, hears, 60)


LEFTOVERS = """
import torch
from mpi4py import MPI
from spnb.errors import PeerFailed
from spnb.transport.mpi import MPITransport

transport = MPITransport(MPI.COMM_WORLD, deadline=20)
rank, other = transport.rank, 1 - transport.rank
heard = []
for size in (3, 300_000):  # one that MPI sends at once, one that waits for its receiver
    for _ in range(4):
        transport.fail("of the past")
        transport.send(other, 0, torch.full((size,), 666.0))
        if size > 3:
            transport.receive(other, 5, torch.empty(1))  # nobody sends this one
        transport.reset()
        x = torch.empty(size)
        try:
            transport.send(other, 0, torch.full((size,), float(rank)))
            transport.wait([transport.receive(other, 0, x)])
            transport.wait([])
            transport._raise_failure()
            heard += x.unique().tolist()
        except PeerFailed as error:
            heard.append(str(error))
open(f"rank-{rank}", "w").write(str(heard))
"""


@pytest.mark.mpi
def test_nothing_of_the_past_is_heard_after_a_reset(tmp_path):
    # MPI gives the number of a freed communicator to a later one, and with it what was left there
    (tmp_path / "leftovers.py").write_text(LEFTOVERS)
    run = subprocess.run(
        [MPIEXEC, "-n", "2", sys.executable, "leftovers.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(spnb.__file__).parent.parent)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    for rank in range(2):
        assert (tmp_path / f"rank-{rank}").read_text() == str([float(1 - rank)] * 8), run.stderr
