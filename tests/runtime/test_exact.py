"""The product: tiled equals untiled, for random networks, sizes, grids and exchange points."""

import pytest
import torch
from hypothesis import assume, given, note, settings
from hypothesis import strategies as st
from networks import chains, dense, randomize
from random_plans import RANDOM_NETWORKS, few_and_many, splits
from running import assert_equal, planned, run
from torch import nn

from spnb.analysis.simulate import simulate
from spnb.analysis.traffic import traffic
from spnb.errors import CaptureError, PlanError, RankError
from spnb.ir.tiling import Tiling, grid_of
from spnb.ir.weights import tensors_of
from spnb.runtime.worker import Worker
from spnb.transport.local import World


def check(net, x, tilings, parts=1, fused=0, balance=None, **copies):
    plan = planned(net, tuple(x.shape), tilings, parts, fused, balance, **copies)
    with torch.inference_mode():
        untiled = net(x)
    tiled, outcomes = run(plan, net, x)
    assert_equal(tiled, untiled)
    for rank, outcome in enumerate(outcomes):
        packed = [event.bytes for event in outcome.events if event.kind == "pack"]
        assert traffic(plan, rank) == (len(packed), sum(packed))
    return plan


@pytest.mark.long
@few_and_many(40)
def test_random_networks(examples):
    @settings(RANDOM_NETWORKS, max_examples=examples)
    @given(data=st.data(), axes=st.sampled_from([1, 2, 2, 2, 3]))
    def check_one(data, axes):
        net = data.draw(chains(axes)).double()
        size = [data.draw(st.integers(8, {1: 60, 2: 30, 3: 14}[axes])) for _ in range(axes)]
        batch, parts = data.draw(st.sampled_from([(1, 1), (2, 1), (5, 2), (4, 2), (5, 3)]))
        tilings = data.draw(splits(axes))
        fused = data.draw(st.sampled_from([0, 0, 1, 2, 100]))
        x = torch.randn(batch, 2, *size, generator=torch.Generator().manual_seed(1)).double()
        try:
            plan = check(net, x, tilings, parts, fused)
        except (PlanError, CaptureError) as refusal:
            note(str(refusal))
            assume(False)
        note(str(plan))

    check_one()


@pytest.mark.slow
@pytest.mark.long
@settings(RANDOM_NETWORKS, max_examples=25)
@given(data=st.data(), axes=st.sampled_from([1, 2, 2]))
def test_random_networks_in_copies(data, axes):
    net = data.draw(chains(axes)).double()
    size = [data.draw(st.integers(8, {1: 60, 2: 30}[axes])) for _ in range(axes)]
    replicas, times = data.draw(st.sampled_from([(2, 0), (1, 1), (1, 2), (2, 1)]))
    parts = data.draw(st.integers(1, 2))
    batch = parts * replicas * max(1, 2 * times) + data.draw(st.integers(0, 3))
    x = torch.randn(batch, 2, *size, generator=torch.Generator().manual_seed(1)).double()
    tilings, fused = data.draw(splits(axes)), data.draw(st.sampled_from([0, 1, 100]))
    try:
        plan = check(net, x, tilings, parts, fused, replicas=replicas, times=times)
    except (PlanError, CaptureError) as refusal:
        note(str(refusal))
        assume(False)
    assert simulate(plan).seconds > 0  # nobody waits for what is never sent


SIZES = [(97, 131), (64, 64), (193, 67)]
DENSE = dense().double()


@pytest.mark.slow(but_each=5)
@pytest.mark.parametrize("tiles", [2, 3, 4, 5, 6, 9])
@pytest.mark.parametrize("method", ["square", "vertical", "horizontal"])
def test_methods_and_tile_counts(method, tiles):
    for size in SIZES:
        x = torch.randn(1, 3, *size).double()
        check(DENSE, x, [Tiling.even((1, *grid_of(method, tiles, 2))), Tiling.even((1, 1, 1))])


@pytest.mark.parametrize("fused", [0, 1, 2, 5, 1 << 30])
@pytest.mark.parametrize("parts", [1, 2, 3])
def test_fused_lengths_and_parts(fused, parts):
    x = torch.randn(5, 3, 97, 67).double()
    tilings = [Tiling.even((1, 2, 2)), Tiling.even((1, 1, 1))]
    plan = check(DENSE, x, tilings, parts, fused, balance=[6, 1])
    assert plan.micro_batch_sizes == {1: (5,), 2: (2, 3), 3: (1, 2, 2)}[parts]


@pytest.mark.parametrize("fused", [0, 1, 1 << 30])
def test_nothing_is_read_that_was_not_written(fused, used_memory):
    x = torch.randn(2, 3, 47, 67).double()
    check(DENSE, x, [Tiling.even((1, 2, 2)), Tiling.even((1, 1, 1))], 2, fused, balance=[6, 1])


def test_four_tiles_to_two_to_one_shared_by_two():
    tilings = [Tiling.even(grid) for grid in [(1, 2, 2), (1, 1, 2), (2, 1, 1)]]
    check(DENSE, torch.randn(5, 3, 97, 131).double(), tilings, parts=2, balance=[2, 3, 2])


def test_custom_cuts():
    tilings = [Tiling(((1,), (3, 1), (1, 2, 4))), Tiling.even((1, 1, 1))]
    check(DENSE, torch.randn(1, 3, 97, 131).double(), tilings, balance=[6, 1])


def test_a_halo_wider_than_the_neighbour_comes_from_the_next_one():
    net = randomize(nn.Sequential(nn.Conv2d(2, 2, 13, padding=6), nn.Conv2d(2, 2, 1))).double()
    tilings = [Tiling.even((1, 1, 9)), Tiling.even((1, 1, 1))]
    plan = check(net, torch.randn(1, 2, 20, 20).double(), tilings, fused=0, balance=[1, 1])
    assert len(plan.rank_plan(4).programs[1][0].steps) > 0
    inner = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 13, padding=6), nn.Conv2d(2, 2, 1))
    plan = check(
        randomize(inner).double(), torch.randn(1, 2, 20, 20).double(), tilings, balance=[2, 1]
    )
    halo = next(e for e in plan.exchanges[1] if e.kind == "halo")
    assert {t.source for t in halo.receives(4)} == {1, 2, 3, 5, 6, 7}


def test_padding_wider_than_the_window_reads_padding_only():
    net = randomize(nn.Sequential(nn.Conv2d(2, 2, 3, padding=8), nn.Conv2d(2, 2, 3))).double()
    tilings = [Tiling.even((1, 3, 3)), Tiling.even((1, 1, 1))]
    for fused in (0, 2):
        check(net, torch.randn(1, 2, 9, 9).double(), tilings, fused=fused, balance=[1, 1])


def test_a_skip_across_stages_goes_straight_to_the_stage_that_needs_it():
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.d = (nn.Conv2d(2, 2, 3, padding=1) for _ in range(4))

        def forward(self, x):
            y = self.a(x)
            return self.d(self.c(self.b(y)) + y), x.mean((2, 3))

    tilings = [Tiling.even(grid) for grid in [(1, 2, 2), (1, 1, 2), (1, 1, 1)]]
    net = randomize(Skip()).double()
    plan = check(net, torch.randn(2, 2, 33, 35).double(), tilings, balance=[1, 1, 2])
    skips = [e for e in plan.exchanges[2] if e.value == "conv2d" and e.kind == "hand-over"]
    assert [set(e.target.ranks) for e in skips] == [{4, 5}, {6}]


def test_a_failure_in_a_mirrored_copy_names_the_stage_that_the_rank_has_there():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)).double()
    whole = Tiling.even((1, 1, 1))
    plan = planned(net, (2, 3, 9, 8), [whole, whole], balance=[1, 1], times=1)

    def read(name, region):
        if region.spans[0] == (1, 2):
            raise FileNotFoundError("the second image is gone")
        return torch.zeros(1, 3, 9, 8).double()

    def work(transport):
        rank_plan = plan.rank_plan(transport.rank)
        names = {name for image in rank_plan.with_mirror for name in image.weights}
        Worker(rank_plan, tensors_of(net, names, plan.graph), transport).infer(read)

    with pytest.raises(RankError, match=r"rank 1, stage 0, .*: the second image is gone"):
        World(plan.num_ranks, deadline=60).run(work)
