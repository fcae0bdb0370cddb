"""Reductions over space: each tile's part, merged."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from running import assert_equal, planned, run
from tiled import Call, check, check_tiled, noise

from spnb.analysis.traffic import traffic
from spnb.ir.tiling import Tiling

FEW = settings(max_examples=25, deadline=None, derandomize=True)
SIZES = {1: (2, 4, 19), 2: (2, 4, 9, 11), 3: (1, 2, 5, 6, 5)}
REDUCTIONS = {
    "sum": torch.sum,
    "mean": torch.mean,
    "amax": torch.amax,
    "amin": torch.amin,
    "var": torch.var,
    "std": torch.std,
    "logsumexp": torch.logsumexp,
    "norm": torch.linalg.vector_norm,
    "norm1": lambda x, dim, keepdim: torch.linalg.vector_norm(x, 1, dim, keepdim),
    "norm3": lambda x, dim, keepdim: x.norm(3, dim, keepdim),
    "biased": lambda x, dim, keepdim: x.var(dim, correction=0, keepdim=keepdim),
}


@pytest.mark.long
@FEW
@given(data=st.data(), axes=st.sampled_from([1, 2, 3]), name=st.sampled_from(sorted(REDUCTIONS)))
def test_reduction(data, axes, name):
    dims = list(range(1, 2 + axes))
    some = data.draw(st.lists(st.sampled_from(dims), min_size=1, unique=True))
    some = [data.draw(st.sampled_from([d, d - axes - 2])) for d in some]
    keep = data.draw(st.booleans())
    plans = check(Call(lambda x: REDUCTIONS[name](x, dim=some, keepdim=keep)), SIZES[axes])
    assert not any(plan.gathered for plan in plans)


@pytest.mark.parametrize("name", sorted(REDUCTIONS))
def test_every_tile_reads_the_same_number(name):
    check(Call(lambda x: x / REDUCTIONS[name](x, dim=(2, 3), keepdim=True)), SIZES[2])


def test_tiles_without_a_pixel_do_not_count():
    net = Call(lambda x: x[:, :, :2].std((2, 3), keepdim=True) + x.amax(3, keepdim=True))
    check_tiled(net, (2, 3, 4, 5), grids=[(4, 3), (3, 5)])


def test_the_mean_of_a_flattened_image():
    check(Call(lambda x: x.flatten(2).mean(-1)), SIZES[2])
    check(Call(lambda x: x.flatten(2).softmax(-1)), SIZES[2])


@pytest.mark.parametrize("name", ["all", "argmax", "median", "prod"])
def test_others_over_channels(name):
    check(Call(lambda x: getattr(torch, name)(x, dim=1)), SIZES[2])


@pytest.mark.parametrize("name", ["argmax", "prod", "cumsum", "sort"])
def test_others_over_space(name):
    gathers = name == "sort"
    net = Call(lambda x: getattr(torch, name)(x, dim=2))
    plans = check(net, SIZES[2], grids=[(2, 2)], allow_gather=gathers)
    assert all(bool(plan.gathered) == gathers for plan in plans)


ALONG_ROWS = {
    "sort": lambda x: x.sort(2)[0],
    "median": lambda x: x.median(2)[0],
    "kthvalue": lambda x: x.kthvalue(3, 2, keepdim=True)[1] + x,
    "fourier": lambda x: torch.fft.irfft(torch.fft.rfft(x, dim=2), n=8, dim=2) + x,
    "gather": lambda x: x.gather(2, x.argsort(2)) + x,
    "quantile": lambda x: x.quantile(0.3, 2, keepdim=True) + x,
}


@pytest.mark.slow(but_each=3)
@pytest.mark.parametrize("name", ALONG_ROWS)
def test_what_reads_whole_columns_leaves_columns_in_tiles(name):
    net = Call(lambda x: ALONG_ROWS[name](x + 1))
    assert not any(plan.gathered for plan in check_tiled(net, (2, 3, 8, 11), grids=[(1, 3)]))
    (plan,) = check_tiled(net, (2, 3, 8, 11), grids=[(2, 2)], fused=(0,), allow_gather=True)
    gathered = [e for e in plan.exchanges[2] if e.kind == "gather"]
    assert gathered and all(e.needs[2] == ((0, 5), (5, 11)) for e in gathered)


def test_half_precision_sums_do_not_overflow():
    net = Call(lambda x: x.mean((2, 3)))
    x = torch.full((1, 1, 300, 300), 300.0).half()
    plan = planned(net, x.shape, [Tiling.even((1, 2, 2))], dtype=torch.float16)
    tiled, _ = run(plan, net, x)
    assert_equal(tiled, torch.full((1, 1), 300.0).half(), 1e-3)


def test_merging_costs_two_messages_a_tile_and_no_more_than_figures():
    net = Call(lambda x: x - x.mean((2, 3), keepdim=True))
    plan = planned(net, (1, 4, 64, 64), [Tiling.even((1, 8, 8))])
    sent = [traffic(plan, rank) for rank in range(64)]
    assert sum(messages for messages, _ in sent) == 7 * 8 + 7 + 63
    assert max(size for _, size in sent[:-1]) == 4 * 8
    x = noise(1, 4, 64, 64)
    tiled, _ = run(plan, net, x)
    assert_equal(tiled, net(x))


def test_large_offsets_do_not_spoil_a_variance():
    net = Call(lambda x: (x + 1e6).var((2, 3)))
    plan = planned(net, SIZES[2], [Tiling.even((1, 2, 2))])
    x = noise(*SIZES[2])
    tiled, _ = run(plan, net, x)
    assert math.isclose(float(tiled[0, 0]), float(x[0, 0].var()), rel_tol=1e-8)
