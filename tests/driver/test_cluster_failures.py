"""Engines after a failure or an interrupt: one error, and the next run works."""

import os
import signal
import threading
import time

import psutil
import pytest
import torch
from on_engines import planned, remote
from tiled import Call

import spnb
from spnb.driver.launch.engine_calls import PATIENCE
from spnb.errors import RunError
from spnb.rules import Rule

pytestmark = pytest.mark.mpi


NO_CHANNELS = """
worker = spnb.here.worker
infer = worker.infer
worker.infer = lambda read, *more: infer(lambda name, region: torch.zeros(1, 1, 2, 2), *more)
"""


def test_a_failing_rank_is_one_error_and_the_next_run_works(cluster):
    cluster.load(planned())
    cluster.client[cluster.engines.ids[2]].execute(NO_CHANNELS, block=True)
    start = time.monotonic()
    with pytest.raises(RunError) as caught:
        cluster.infer()
    assert time.monotonic() - start < PATIENCE  # the others were freed, not given up
    assert str(caught.value).startswith("rank 2, stage 0, 0 (conv2d): RuntimeError")
    cluster.load(planned())
    assert cluster.infer().check().passed


STUCK = "import time\nspnb.here.worker.infer = lambda *args: time.sleep(60)"


def test_an_interrupt_frees_every_rank(cluster):
    cluster.load(planned())
    cluster.client[cluster.engines.ids[0]].execute(STUCK, block=True)
    threading.Timer(0.7, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        cluster.infer()
    cluster.load(planned())
    assert cluster.infer().check().passed


def test_a_waiting_rank_leaves_the_core_alone(cluster):
    cluster.load(planned(num_spatial_parts=8))
    pids = cluster.view.apply_sync(os.getpid)
    cluster.client[cluster.engines.ids[0]].execute(STUCK, block=True)
    shares = []

    def measure():
        waiting = [psutil.Process(pid) for pid in pids[1:9]]
        time.sleep(1.0)
        before = [sum(p.cpu_times()[:2]) for p in waiting]
        time.sleep(3.0)
        shares.extend(sum(p.cpu_times()[:2]) - b for p, b in zip(waiting, before))
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=measure).start()
    with pytest.raises(KeyboardInterrupt):
        cluster.infer()
    assert max(shares) / 3.0 < 0.05, shares
    cluster.load(planned())


def test_a_rule_that_the_ranks_do_not_have_is_told(cluster):
    torch.library.define("spnbhere::twice", "(Tensor x) -> Tensor")
    torch.library.impl("spnbhere::twice", "CompositeExplicitAutograd")(lambda x: x * 2)
    torch.library.register_fake("spnbhere::twice")(lambda x: torch.empty_like(x))

    @remote
    def own_rule(node):
        return Rule(node)

    spnb.rule("spnbhere.twice")(own_rule)
    net = Call(torch.ops.spnbhere.twice)
    plan = spnb.plan(spnb.Job(net, input_shapes=[(1, 3, 16, 16)], split_size=1))
    with pytest.raises(RunError, match=r"no rule for the operator spnbhere\.twice.*%%px --local"):
        cluster.load(plan)
    cluster.load(planned())
