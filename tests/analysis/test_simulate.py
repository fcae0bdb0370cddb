"""A plan on a clock: complete, causal, and of the size that arithmetic gives."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import spnb
from spnb.analysis.simulate import seconds_by_stage, simulate
from spnb.analysis.traffic import totals, traffic, traffic_matrix
from spnb.analysis.untiled import untiled
from spnb.ir.cost import CORE, GPU, Machine, Speed


def job(**options):
    return spnb.Job("resnet20_v1", image_size=96, **options)


@pytest.mark.long
@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from([1, 2, 3, 4, 6]),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([0, 1, 3]),
    st.sampled_from(["square", "vertical", "horizontal"]),
)
def test_every_program_ends(tiles, parts, stages, fused, method):
    options = {"halo_D2": True, "fused_layers": fused} if fused else {}
    plan = spnb.plan(
        job(
            batch_size=3,
            parts=parts,
            split_size=stages,
            num_spatial_parts=tiles,
            slice_method=method,
            **options,
        )
    )
    run = simulate(plan)
    for rank, events in enumerate(run.events):
        assert events
        for before, after in pairwise(events):
            assert before.start <= before.stop <= after.start
        packs = [e for e in events if e.kind == "pack"]
        assert (len(packs), sum(e.bytes for e in packs)) == traffic(plan, rank)
    sums = totals(plan)
    each = [traffic(plan, rank) for rank in range(plan.num_ranks)]
    assert (sums.messages, sums.bytes) == tuple(map(sum, zip(*each)))
    assert traffic_matrix(plan).sum(axis=1).tolist() == [size for _, size in each]


def test_one_rank_takes_the_sum_of_its_operators():
    plan = spnb.plan(job(batch_size=1, split_size=1, spatial_size=0))
    machine = replace(CORE, memory=1e30)
    expected = sum(node.flops / machine.flops + machine.launch for node in plan.graph.nodes)
    assert simulate(plan, machine).seconds == pytest.approx(expected)


def test_a_pipeline_overlaps_and_latency_costs():
    plans = [spnb.plan(job(batch_size=8, parts=parts)) for parts in (1, 8)]
    whole, piped = (simulate(plan).seconds for plan in plans)
    assert piped < whole
    slow = simulate(plans[0], Machine(latency=1.0)).seconds
    hops = len({e.layer for e in simulate(plans[0]).events[0] if e.kind == "wait"})
    assert slow - whole >= 0.9 * hops
    assert simulate(plans[1], GPU).speedup < plans[1].num_ranks


def test_redundant_work_grows_with_the_halo():
    shares = [
        totals(spnb.plan(job(batch_size=1, halo_D2=True, fused_layers=n))).redundant
        for n in (1, 4, "all")
    ]
    assert shares == sorted(shares)
    assert shares[0] >= 0
    assert shares[-1] > 0.01
    assert totals(untiled(spnb.plan(job(batch_size=1)))).redundant == pytest.approx(0, abs=1e-3)


@pytest.mark.long
def test_tables_and_pictures_are_those_of_a_run():
    run = simulate(spnb.plan(job(batch_size=2, parts=2)))
    assert list(run.timings.columns)[:3] == ["rank", "stage", "micro_batch"]
    assert run.timings["stop"].max() == run.seconds
    assert len(run.plot_timeline().get_yticklabels()) == 5
    assert "times as fast" in repr(run)


def test_ranks_share_cores():
    plan = spnb.plan(job(batch_size=1, split_size=1, num_spatial_parts=2))
    alone, shared, enough = (
        simulate(plan, replace(CORE, cores=cores)).seconds for cores in (None, 1, 2)
    )
    assert 1.8 * alone < shared < 2.05 * alone
    assert enough == pytest.approx(alone)
    whole = spnb.plan(job(batch_size=1, split_size=1, spatial_size=0))
    one, two = (simulate(whole, replace(CORE, cores=cores)).seconds for cores in (1, 2))
    assert two == pytest.approx(one / 2)  # one rank uses both


def test_a_rank_that_waits_leaves_its_core_to_others():
    plan = spnb.plan(job(batch_size=8, parts=8, split_size=2, spatial_size=0, balance=(1, 14)))
    run = simulate(plan, replace(CORE, cores=1, link=1e15, latency=0.0))
    work = sum(e.stop - e.start for e in simulate(plan).timings.itertuples() if e.kind != "wait")
    assert run.seconds == pytest.approx(work, rel=1e-6)


def test_a_core_is_computed_while_its_halo_is_on_the_way():
    plan = spnb.plan(job(batch_size=1, split_size=1, num_spatial_parts=2))
    near, far = (
        simulate(plan, replace(CORE, flops=1e8, latency=latency)) for latency in (1e-9, 1e-3)
    )
    exchanges = sum(e.kind == "wait" for e in near.events[0])
    assert far.seconds - near.seconds < 0.3 * exchanges * 1e-3  # a few read both at once


@pytest.mark.slow(but_each=2)
@pytest.mark.long
@pytest.mark.parametrize("copies", [{}, {"gems": True}, {"replicas": 2}])
@pytest.mark.parametrize("schedule", ["1f1b", "gpipe"])
def test_a_training_step_goes_back_and_ends(copies, schedule):
    machine = Machine(recorded=1.5, backward=3.0, latency=0.0)
    options = {
        "batch_size": 8,
        "parts": 2,
        "split_size": 3,
        "spatial_size": 2,
        "balance": (5, 5, 5),
    }
    plan = spnb.plan(job(schedule=schedule, **options, **copies), training=True)
    run = simulate(plan, machine)
    (seconds,) = {each[-1].stop for each in run.events if each[-1].stop == run.seconds}
    kinds = run.timings.groupby("rank").kind.agg(set)
    assert all({"compute", "pack", "wait", "unpack"} <= each for each in kinds)
    again = simulate(spnb.plan(job(recompute=True, **options, **copies), training=True), machine)
    assert again.seconds > seconds


def test_training_on_one_rank_takes_its_passes():
    plan = spnb.plan(job(batch_size=1, split_size=1, spatial_size=0), training=True)
    machine = replace(CORE, memory=1e30, recorded=1.5, backward=3.0)
    calls = sum(node.flops / machine.flops + machine.launch for node in plan.graph.nodes)
    assert simulate(plan, machine).seconds == pytest.approx(4.5 * calls, rel=1e-3)


@pytest.mark.slow(but_each=3)
@pytest.mark.long
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"num_spatial_parts": 9},
        {"num_spatial_parts": 6, "parts": 2, "split_size": 3, "spatial_size": 2},
        {"num_spatial_parts": 4, "replicas": 2, "halo_D2": True, "fused_layers": 2},
        {"num_spatial_parts": 2, "patches": 4},
    ],
)
def test_one_rank_stands_for_its_stage(options, training):
    plan = spnb.plan(job(batch_size=4, **options), training=training)
    for machine in (CORE, replace(CORE, cores=2)):
        assert seconds_by_stage(plan, machine) == pytest.approx(
            simulate(plan, machine).seconds, rel=0.1
        )


def test_measured_speeds_count_and_alike_ones_stand_for_others():
    plan = spnb.plan(job(batch_size=1, split_size=1, spatial_size=0))
    node = next(n for n in plan.graph.nodes if n.kind == "conv2d" and n.weights[0].shape[1] == 16)
    taps, channels, size = 9, 16, node.bytes_touched
    speeds = tuple(
        Speed("conv2d", taps, n, n, size, rate) for n, rate in ((channels, 1e9), (512, 1e12))
    )
    machine = Machine(speeds=speeds, memory=1e30, launch=0.0)
    assert machine.seconds(node) == pytest.approx(node.flops / 1e9, rel=0.05)
    assert machine.seconds(node, 0.5) < machine.seconds(node)
