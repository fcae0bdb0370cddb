"""Calibration: figures of this machine and of a cluster's ranks, kept for later simulations."""

import datetime

import pytest

import spnb
from spnb.benchmarking import calibration, probe
from spnb.job.machines import MeasuredMachine, machine_of
from spnb.kernels.cores import num_cores
from spnb.ui.cli import main


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Small images, and a file of its own."""
    monkeypatch.setattr(probe, "SIZES", (8, 48))
    monkeypatch.setattr(probe, "TRAINED", 32)
    path = tmp_path / "machine.json"
    monkeypatch.setenv("SPNB_MACHINE", str(path))
    return path


@pytest.mark.long
def test_a_rank_times_every_call_of_the_probe(small):
    plans = probe.ProbePlans.made()
    times = probe.timed(plans.probe)
    calls = calibration._calls(plans.by_size[48])
    assert len(times.operators[48]) == len(calls)
    assert {"conv2d", "conv_transpose2d", "max_pool2d", "cat"} <= {node.kind for node in calls}
    machine = calibration._fitted(plans, times)
    assert min(machine.flops, machine.memory, machine.launch, machine.recorded) > 0
    assert machine.backward > 0
    # The machine foresees the run that it was fitted to: the calls that took long, at least.
    foreseen = sum(machine.seconds(node) for node in calls)
    taken = sum(times.operators[48]) + len(calls) * times.between
    assert 0.5 < foreseen / taken < 2


@pytest.mark.slow
@pytest.mark.mpi
def test_a_clusters_ranks_are_measured_one_by_one(cluster, small):
    plan = spnb.plan("resnet20_v1", image_size=64, batch_size=1, tiles=2, stages=1)
    cluster.load(plan)
    found = spnb.calibrate(cluster, progress=False)
    assert len(found.ranks) == len(cluster.client.ids)
    assert len(found.links) == len(found.ranks) - 1
    assert all(0 < link.latency < 1 and link.bandwidth > 1e6 for link in found.links)
    assert cluster.infer().check().passed  # its plan is still loaded
    assert MeasuredMachine.read(small).day == datetime.date.today().isoformat()
    assert machine_of("here").cores == num_cores()
    assert str(small) in found.card.text


@pytest.mark.mpi
def test_the_command_says_where_it_keeps_the_figures(on_shared_engines, small, capsys):
    assert main(["calibrate"]) == 0
    printed = capsys.readouterr().out
    assert f"kept in {small}" in printed
    assert "Gflop/s" in printed
    assert small.exists()
