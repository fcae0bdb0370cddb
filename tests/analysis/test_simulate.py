"""A plan on a clock: complete, causal, and of the size that arithmetic gives."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import spnb
from spnb.analysis.simulate import simulate
from spnb.analysis.traffic import totals, traffic, traffic_matrix
from spnb.analysis.untiled import untiled
from spnb.ir.cost import CORE, GPU, Machine


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
