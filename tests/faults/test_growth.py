"""A cluster that runs for long takes no more memory and no more descriptors."""

import pytest
from growth import ALLOWED, by_loads, by_runs, job

import spnb
from spnb.driver.launch.controller import REMEMBERED
from spnb.engine.cells import DIGESTS


def signatures_at_most():
    from IPython import get_ipython

    return get_ipython().kernel.session.digest_history_size


@pytest.mark.slow
@pytest.mark.mpi
def test_inferences_and_loads_leave_nothing_behind():
    with spnb.Cluster(spnb.plan(job(0)), progress=False) as cluster:
        known = len(cluster.client.history)
        growths = [*by_runs(cluster, 300).values(), *by_loads(cluster, 30).values()]
        assert max(max(each) for each in growths) <= ALLOWED
        # Each run and each load has left messages, of about a KiB, with each of these.
        assert len(cluster.client.history) == known
        assert len(cluster.client.metadata) <= known + 2  # those of the last call may come later
        queues = cluster.client.queue_status()
        assert 0 < sum(queues[k]["completed"] for k in cluster.engines.ids) <= REMEMBERED
        assert cluster.view.apply(signatures_at_most) == [DIGESTS] * 2
