"""Ranks publish what they do: the seconds of each kind of event, and the pass of a training."""

import pytest
import torch
from networks import conv

import spnb
from spnb.engine import progress
from spnb.engine.here import Here


@pytest.fixture
def job():
    return spnb.Job(conv(3, 4), image_size=32, batch_size=4, parts=2, stages=1, tiles=2)


@pytest.fixture
def seen(monkeypatch):
    """What each rank published, which is everything."""
    monkeypatch.setattr(progress, "PUBLISH_EVERY", -1.0)
    found = {}
    load = Here.load

    def noting(here, rank_plan, *args, **options):
        load(here, rank_plan, *args, **options)
        here.publish = found.setdefault(rank_plan.rank, []).append

    monkeypatch.setattr(Here, "load", noting)
    return found


def test_a_run_publishes_the_seconds_of_its_events(job, seen):
    result = spnb.InProcess(spnb.plan(job), progress=False).infer()
    assert sorted(seen) == [0, 1]
    for rank, published in seen.items():
        assert published[0]["share"] == 0
        assert {each["micro_batch"] for each in published} == {0, 1}
        assert {each["run"] for each in published} == {0}
        last = published[-1]
        assert (last["share"], last["done"]) == (1, 2)
        own = result.timings[result.timings["rank"] == rank]
        assert last["spent"] == pytest.approx(own.groupby("kind")["seconds"].sum().to_dict())
        assert sum(last["spent"].values()) <= last["time"]


def test_an_epoch_publishes_its_passes(job, seen):
    session = spnb.InProcess(spnb.plan(job, training=True), progress=False)
    session.train(torch.rand(8, 3, 32, 32), torch.ones(8, 32, 32, dtype=torch.long))
    for published in seen.values():
        published = [each for each in published if "epoch" in each]
        assert {each["now"] for each in published} == {"forward", "backward", "between"}
        assert [each["steps"] for each in published][-1] == 2
        assert {each["micro_batch"] for each in published} == {0, 1}
        last = published[-1]
        assert sum(last["spent"].values()) == pytest.approx(last["time"], rel=1e-6)
