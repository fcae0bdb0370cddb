"""A cluster that runs for long takes no more memory and no more descriptors."""

import time

import pytest
from growth import ALLOWED, by_loads, by_runs, job

import spnb
from spnb.driver.launch.controller import REMEMBERED
from spnb.engine.cells import DIGESTS


def signatures_at_most():
    from IPython import get_ipython

    return get_ipython().kernel.session.digest_history_size


def records_left(cluster, allowed):
    """The client's records of messages, when what engines published has had time to come."""
    until = time.monotonic() + 20
    while time.monotonic() < until and len(cluster.client.metadata) > allowed:
        time.sleep(0.1)
        _ = cluster.infer().output  # removes records of earlier calls
    return len(cluster.client.metadata)


@pytest.mark.slow
@pytest.mark.mpi
def test_inferences_and_loads_leave_nothing_behind():
    with spnb.Cluster(spnb.plan(job(0)), progress=False) as cluster:
        known = len(cluster.client.history)
        for found in (by_runs(cluster, 300), by_loads(cluster, 30)):
            assert {name: each for name, each in found.items() if max(each) > ALLOWED} == {}
        # Each run and each load has left messages, of about a KiB, with each of these.
        assert len(cluster.client.history) == known
        allowed = known + 2  # what the last call published may come later
        assert records_left(cluster, allowed) <= allowed
        queues = cluster.client.queue_status()
        assert 0 < sum(queues[k]["completed"] for k in cluster.engines.ids) <= REMEMBERED
        assert cluster.view.apply(signatures_at_most) == [DIGESTS] * 2
