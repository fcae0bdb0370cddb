"""Engines that die, are too few, or are started anew: few of them, since they start many times."""

import os
import signal
from types import SimpleNamespace

import psutil
import pytest
import torch

import spnb
from spnb.errors import EngineDied, RunError

pytestmark = pytest.mark.mpi


def planned(tiles=2, **options):
    given = {"image_size": "33x47", "batch_size": 2, "slice_method": "vertical", "split_size": 1}
    given |= options
    return spnb.plan(spnb.Job("resnet20_v1", num_spatial_parts=tiles, **given))


@pytest.fixture(scope="module")
def shell():
    """The notebook that the cluster believes to be in."""
    return SimpleNamespace(user_ns={})


@pytest.fixture(scope="module")
def small(shell):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spnb.driver.cluster.notebook", lambda: shell)
        with spnb.Cluster(planned(), progress=False) as cluster:
            yield cluster


def end(cluster, rank, number):
    os.kill(cluster.view.apply_sync(os.getpid)[rank], number)


@pytest.mark.filterwarnings("ignore:The IPython parallel magics")
def test_an_ended_engine_is_told_and_restart_helps(small, shell):
    assert shell.user_ns["rc"] is small.client
    end(small, 1, signal.SIGTERM)  # `tests/driver/launch/test_engines.py` kills one
    with pytest.raises(EngineDied, match=r"died on .*cluster.restart\(\)"):
        for _ in range(50):
            small.infer()
    assert "not all alive: cluster.restart()" in repr(small)
    small.restart()
    assert shell.user_ns["rc"] is small.client
    assert small.infer().check().passed


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The IPython parallel magics")
def test_a_killed_engine_is_told_by_gloo_and_rc_stays_the_users(small, shell):
    small.load(planned(backend="gloo"))
    wanted = small.infer().output
    shell.user_ns["rc"] = mine = object()
    end(small, 1, signal.SIGKILL)
    with pytest.raises((EngineDied, RunError)):
        small.infer()
    small.restart()
    assert torch.equal(small.infer().output, wanted)
    assert shell.user_ns["rc"] is mine


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The IPython parallel magics")
def test_more_engines_are_started_where_they_do_not_suffice(small):
    before = set(small.view.apply_sync(os.getpid))
    small.load(planned(slice_method="horizontal"))
    assert set(small.view.apply_sync(os.getpid)) == before
    assert small.infer().check().passed
    small.load(planned(3))
    assert small.infer().check().passed
    assert len(small.engines.ids) == 3
    small.stop()
    assert repr(small) == "Cluster: stopped"
    for use in (small.infer, small.restart, lambda: small.load(small.plan)):
        with pytest.raises(RuntimeError, match="this Cluster is stopped: make a new one"):
            use()
    small.stop()
    assert not any(psutil.pid_exists(pid) for pid in before)
