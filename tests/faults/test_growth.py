"""A cluster that runs for long takes no more memory and no more descriptors."""

import pytest
from growth import ALLOWED, by_loads, by_runs, job

import spnb


@pytest.mark.slow
@pytest.mark.mpi
def test_inferences_and_loads_leave_nothing_behind():
    with spnb.Cluster(spnb.plan(job(0)), progress=False) as cluster:
        growths = [*by_runs(cluster, 300).values(), *by_loads(cluster, 30).values()]
    # In so few runs the first allocations weigh more than in those of the command (growth.py).
    assert max(max(each) for each in growths) <= 2 * ALLOWED
