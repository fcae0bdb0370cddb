"""A slow link: messages come later, results are the same, and what is foreseen is measured."""

import time

import pytest
import torch

import spnb
from spnb.errors import OptionError, PeerFailed
from spnb.ir.cost import CORE
from spnb.ir.link import SlowLink
from spnb.job.parsing import link_of
from spnb.transport.local import World
from spnb.transport.slow_link import SlowTransport

LATENCY = 0.05


def over_slow_link(work, ranks=2, link=None):
    link = link or SlowLink(LATENCY, 1e9)
    return World(ranks, deadline=20).run(lambda carrier: work(SlowTransport(carrier, link)))


def round_trip(transport):
    """Seconds until a message is here that was sent at once, and its content."""
    partner, content = 1 - transport.rank, torch.arange(6.0) + transport.rank
    buffer = torch.empty(6)
    transport.barrier()
    start = time.perf_counter()
    arrival = transport.receive(partner, 5, buffer)
    transport.send(partner, 5, content)
    sent = time.perf_counter() - start
    transport.wait([arrival])
    return sent, time.perf_counter() - start, buffer.tolist()


def test_a_message_comes_later_and_unchanged():
    for rank, (sent, taken, content) in enumerate(over_slow_link(round_trip)):
        assert sent < LATENCY  # the sender goes on
        assert LATENCY - 5e-3 <= taken < 10 * LATENCY  # the other one may have begun just before
        assert content == [float(n + 1 - rank) for n in range(6)]


def test_the_link_carries_one_message_after_another():
    link = SlowLink(0.0, 80 / LATENCY)  # a message of 80 bytes takes so long

    def work(transport):
        buffers = [torch.empty(10, dtype=torch.float64) for _ in range(3)]
        transport.barrier()
        start = time.perf_counter()
        if transport.rank == 0:
            for n in range(3):
                transport.send(1, n, torch.full((10,), float(n), dtype=torch.float64))
            return []
        times = []
        for arrival in [transport.receive(0, n, buffer) for n, buffer in enumerate(buffers)]:
            transport.wait([arrival])
            times.append(time.perf_counter() - start)
        return times

    _, times = over_slow_link(work, link=link)
    for number, taken in enumerate(times, 1):
        assert taken >= number * LATENCY - 5e-3


def test_a_failure_is_heard_at_once():
    def work(transport):
        if transport.rank == 0:
            transport.fail("rank 0 gave up")
            return None
        with pytest.raises(PeerFailed, match="rank 0 gave up"):
            transport.wait([transport.receive(0, 1, torch.empty(1))])

    over_slow_link(work)


@pytest.mark.parametrize(
    ("text", "link"),
    [
        ("5ms,200Mbit", SlowLink(5e-3, 25e6)),
        ("100us, 1GB/s", SlowLink(1e-4, 1e9)),
        ("0s,10kbit", SlowLink(0.0, 1250.0)),
    ],
)
def test_links_are_read(text, link):
    read = link_of(text)
    assert (read.latency, read.bandwidth) == pytest.approx((link.latency, link.bandwidth))


@pytest.mark.parametrize("text", ["5ms", "5,200", "200Mbit,5ms", "1ms,0bit", "-1ms,1GB", "fast"])
def test_what_is_no_link_is_refused(text):
    with pytest.raises(OptionError, match=r"cannot read slow_link .*: give a latency and a band"):
        spnb.Job("unet", slow_link=text)


SPLIT = {"image_size": 96, "batch_size": 1, "split_size": 1, "num_spatial_parts": 2}
LINK = "100ms,1Gbit"


@pytest.mark.parametrize("training", [False, True])
def test_results_are_the_same(training):
    job = spnb.Job("resnet20_v1", slow_link="2ms,100Mbit", **SPLIT)
    session = spnb.InProcess(spnb.plan(job, training=training), progress=False)
    if not training:
        assert session.infer().check().passed
        return
    images, labels = torch.rand(2, 3, 96, 96), torch.tensor([1, 2])
    trained = session.train(images, labels)
    plain = spnb.InProcess(spnb.plan(job.replace(slow_link=None), training=True), progress=False)
    assert trained.history["loss"].tolist() == plain.train(images, labels).history["loss"].tolist()


@pytest.mark.slow
def test_fused_halos_win_where_they_are_foreseen_to():
    """On a slow link fewer exchanges are better, on a fast one less redundant work: so foreseen,
    and so it is."""
    job = spnb.Job("w3", **SPLIT)
    lengths = {0: {}, 4: {"fuse": 4}, "all": {"fuse": "all"}}
    slow = {n: spnb.plan(job.replace(slow_link=LINK, **each)) for n, each in lengths.items()}
    foreseen = {n: plan.simulate(CORE).seconds for n, plan in slow.items()}
    session = spnb.InProcess(slow[0], progress=False)
    measured = {}
    for n, plan in slow.items():
        session.load(plan)
        image = plan.open()
        session.infer(image)
        measured[n] = session.infer(image).seconds["step"]
    assert sorted(measured, key=measured.get) == sorted(foreseen, key=foreseen.get)
    assert sorted(foreseen, key=foreseen.get) == ["all", 4, 0]
    assert measured["all"] < measured[0] / 2
    fast = {n: spnb.plan(job.replace(**each)).simulate(CORE).seconds for n, each in lengths.items()}
    assert min(fast, key=fast.get) != "all"


@pytest.mark.mpi
def test_engines_have_it_too(cluster):
    job = spnb.Job("resnet20_v1", **SPLIT)
    seconds = {}
    for link in (None, LINK):
        cluster.load(spnb.plan(job.replace(slow_link=link)))
        cluster.infer()
        result = cluster.infer()
        assert result.check().passed
        seconds[link] = result.seconds["step"]
    waits = spnb.plan(job).totals.exchanges
    assert seconds[LINK] > seconds[None] + 0.5 * waits * 0.1
