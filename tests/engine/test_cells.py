"""``%%px`` cells: a failed or interrupted one keeps nobody waiting, and leaves nothing behind."""

import signal
import time

import pytest
import torch
from ipyparallel.error import CompositeError

import spnb
from spnb.errors import EngineTimeout

SIZE = 24


@pytest.fixture(scope="module")
def cluster():
    net = torch.nn.Conv2d(1, 1, 3, padding=1)
    job = spnb.Job(
        net,
        image_size=SIZE,
        batch_size=1,
        split_size=1,
        num_spatial_parts=3,
        slice_method="vertical",
    )
    with spnb.Cluster(spnb.plan(job), deadline=60) as cluster:
        yield cluster


EXCHANGE = """
own = range(*spnb.here.region.spans[2])
x = torch.arange(own.start, own.stop).float().expand(1, {channels}, 24, -1) + {step}
wide = spnb.here.exchange(x.contiguous(), 2)[0, 0, 0] - {step}
"""


def exchanged(cluster, step, channels=1):
    """Whether an exchange in a cell gives each rank the columns around its own."""
    cluster.view.execute(EXCHANGE.format(step=step, channels=channels), silent=False, block=True)
    wide = [columns.tolist() for columns in cluster.view["wide"]]
    return wide == [list(range(0, 10)), list(range(6, 18)), list(range(14, 24))]


def interrupted(cluster, cell, targets=None):
    """Run a cell that does not end, and interrupt it."""
    ids = cluster.engines.ids if targets is None else [cluster.engines.ids[k] for k in targets]
    running = cluster.view.execute(cell, silent=False, block=False, targets=ids)
    time.sleep(0.5)
    assert not running.ready()
    cluster.client.send_signal(signal.SIGINT, ids, block=True)
    with pytest.raises(CompositeError):
        running.get(timeout=20)


@pytest.mark.slow(but_each=3)
@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [[0], [1], [0, 1]])
def test_an_exchange_that_not_all_ranks_came_to_is_forgotten(cluster, ranks):
    for step in range(3):
        interrupted(cluster, EXCHANGE.format(step=1000 * step, channels=1), ranks)
        assert exchanged(cluster, step)
    assert cluster.infer().check().passed


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("ranks", "who"), [([1], "engine 1 is busy"), ([0, 2], r"engines \[0, 2\] are busy")]
)
def test_a_run_behind_a_cell_that_does_not_end_is_refused(cluster, ranks, who):
    ids = [cluster.engines.ids[k] for k in ranks]
    running = cluster.view.execute("import time; time.sleep(60)", block=False, targets=ids)
    begun = time.monotonic()
    with pytest.raises(EngineTimeout, match=f"{who} in a cell: wait until it has ended"):
        cluster.infer()
    assert time.monotonic() - begun < 20
    cluster.client.send_signal(signal.SIGINT, ids, block=True)
    with pytest.raises(CompositeError):
        running.get(timeout=20)
    short = cluster.view.execute("time.sleep(0.3)", block=False, targets=ids)
    assert cluster.infer().check().passed  # it is waited for
    assert short.ready()


@pytest.mark.mpi
def test_a_cell_whose_answer_an_interrupt_lost_keeps_nobody_waiting(cluster):
    running = cluster.view.execute("1", block=False)
    running.get(timeout=20)
    cells = cluster.engines._cells
    cells._sent.append((cluster.engines.ids[1], "lost"))
    cluster.client.outstanding.add("lost")
    assert cells.still_run() == [cluster.engines.ids[1]]
    assert cluster.infer().check().passed
    assert cells.still_run() == []


@pytest.mark.mpi
def test_who_fails_in_a_cell_keeps_nobody_waiting(cluster):
    for late in (0.0, 0.4, 0.4):  # the one that fails is the last to begin, or the first
        cell = f"""
import time
time.sleep({late} if spnb.here.rank != 1 else {0.4 - late})
if spnb.here.rank == 1:
    raise KeyError("no such colour")
"""
        start = time.monotonic()
        with pytest.raises(CompositeError) as caught:
            cluster.view.execute(
                cell + EXCHANGE.format(step=666, channels=1), silent=False, block=True
            ).get()
        assert time.monotonic() - start < 30  # half of the deadline
        heard = [error[1] for error in caught.value.elist if error[0] == "PeerFailed"]
        assert heard == ["rank 1: KeyError: 'no such colour'"] * 2
    assert exchanged(cluster, 1)


BROKEN = """
if spnb.here.rank == 1:
    spnb.here.worker.transport.wait = lambda arrivals: 1 / 0
try:
    {exchange}
finally:
    vars(spnb.here.worker.transport).pop("wait", None)
"""


@pytest.mark.mpi
@pytest.mark.parametrize("channels", [1, 10_000])  # MPI sends small messages at once
def test_what_was_sent_to_one_that_failed_is_forgotten(cluster, channels):
    exchange = EXCHANGE.format(step=666, channels=channels).replace("\n", "\n    ")
    for step in range(3):
        with pytest.raises(CompositeError, match="ZeroDivisionError"):
            cluster.view.execute(BROKEN.format(exchange=exchange), silent=False, block=True).get()
        assert exchanged(cluster, step, channels)


@pytest.mark.mpi
def test_a_forward_that_was_interrupted_is_forgotten(cluster):
    whole = torch.rand(1, 1, SIZE, SIZE)
    cluster.view.push({"whole": whole})
    cell = "y = spnb.here.forward(whole[..., slice(*spnb.here.region.spans[2])].contiguous())"
    interrupted(cluster, cell, [0, 2])
    cluster.view.push({"whole": whole + 1})
    cluster.view.execute(cell, silent=False, block=True)
    found = torch.cat([pieces[0].tensor for pieces in cluster.view["y"]], dim=-1)
    with torch.inference_mode():
        assert torch.allclose(found, cluster.plan.job.module(whole + 1), atol=1e-5)
