"""Exchanges: every need met once, sends and receives two readings of one table, and adjoint."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from running import piece_of

from spnb.ir.exchange import HOST, Exchange, Team, _overlaps, region_at
from spnb.ir.region import Region, intersect, length
from spnb.ir.tiling import Tiling


@st.composite
def exchanges(draw):
    """Any grid to any other or the same, with needs of any size around each tile."""
    axes = draw(st.integers(1, 3))
    extent = tuple(draw(st.integers(3, 12)) for _ in range(axes + 1))
    grid = lambda: Tiling.even([draw(st.integers(1, 3)) for _ in range(axes + 1)])  # noqa: E731
    source = Team(range(10, 10 + 27 * 3), grid())
    source = Team(range(10, 10 + source.tiling.num_tiles), source.tiling)
    if draw(st.booleans()):
        target = source
    else:
        tiling = grid()
        first = draw(st.sampled_from([0, 10, 12, 200]))  # apart, or sharing ranks
        target = Team(range(first, first + tiling.num_tiles), tiling)
    needs = tuple(
        tuple(
            (max(0, a - draw(st.integers(0, 4))), min(n, b + draw(st.integers(0, 4))))
            for a, b in axis
        )
        for axis, n in zip(target.tiling.spans(extent), extent)
    )
    return extent, Exchange(
        3, "x", "halo", source, target, source.tiling.spans(extent), needs, position_bytes=4
    )


@settings(deadline=None)
@given(exchanges())
def test_sends_and_receives_match_and_meet_every_need_once(case):
    extent, exchange = case
    exchange.verify()
    sends = [t for rank in exchange.source.ranks for t in exchange.sends(rank)]
    receives = [t for rank in exchange.target.ranks for t in exchange.receives(rank)]
    assert sorted(map(repr, sends)) == sorted(map(repr, receives))
    assert len({(t.source, t.target) for t in sends}) == len(sends)  # one message a pair
    for rank in exchange.target.ranks:
        count = torch.zeros(extent, dtype=torch.int)
        kept = exchange.retained(rank)
        for region in [t.region for t in exchange.receives(rank)] + ([kept] if kept else []):
            count[tuple(slice(*s) for s in region.spans)] += 1
        need = torch.zeros(extent, dtype=torch.int)
        need[tuple(slice(*s) for s in exchange.need(rank).spans)] = 1
        assert torch.equal(count, need)
    for rank in exchange.source.ranks:
        mine = exchange.sends(rank)
        assert exchange.sent(rank) == (len(mine), 4 * sum(t.region.size for t in mine))


SPANS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)).map(sorted).map(tuple), max_size=8)


@settings(deadline=None)
@given(mine=SPANS, theirs=SPANS, ordered=st.booleans())
def test_who_meets_whom_is_found_in_any_order(mine, theirs, ordered):
    theirs = sorted(theirs) if ordered else theirs
    wanted = [
        [(k, met) for k, span in enumerate(theirs) if length(met := intersect(own, span))]
        for own in mine
    ]
    assert _overlaps(mine, theirs) == wanted


def move(exchange, has):
    """The exchange, done by hand: each target's need from every source's tile."""
    needs = {}
    for rank in exchange.target.ranks:
        need = exchange.need(rank)
        out = torch.zeros(need.shape, dtype=torch.float64)
        pieces = [(t.source, t.region) for t in exchange.receives(rank)]
        if kept := exchange.retained(rank):
            pieces.append((rank, kept))
        for source, region in pieces:
            own = region_at(exchange.has, exchange.source.position(source))
            out[region.slices_in(need)] = has[source][region.slices_in(own)]
        needs[rank] = out
    return needs


def move_back(exchange, needs):
    """Its adjoint: the same transfers reversed, arrivals summed."""
    has = {
        rank: torch.zeros(
            region_at(exchange.has, exchange.source.position(rank)).shape, dtype=torch.float64
        )
        for rank in exchange.source.ranks
    }
    for rank in exchange.target.ranks:
        need = exchange.need(rank)
        pieces = [(t.reversed.target, t.reversed.region) for t in exchange.receives(rank)]
        if kept := exchange.retained(rank):
            pieces.append((rank, kept))
        for source, region in pieces:
            own = region_at(exchange.has, exchange.source.position(source))
            has[source][region.slices_in(own)] += needs[rank][region.slices_in(need)]
    return has


@settings(deadline=None)
@given(exchanges())
def test_adjoint(case):
    """<F x, y> = <x, F* y>."""
    _, exchange = case
    random = torch.Generator().manual_seed(0)
    x = {
        rank: torch.randn(
            region_at(exchange.has, exchange.source.position(rank)).shape,
            generator=random,
            dtype=torch.float64,
        )
        for rank in exchange.source.ranks
    }
    y = {
        rank: torch.randn(exchange.need(rank).shape, generator=random, dtype=torch.float64)
        for rank in exchange.target.ranks
    }
    forward, backward = move(exchange, x), move_back(exchange, y)
    left = sum((forward[r] * y[r]).sum() for r in y)
    right = sum((x[r] * backward[r]).sum() for r in x)
    assert torch.allclose(left, right, rtol=1e-12, atol=1e-12)


def test_the_host_gives_the_image_and_takes_the_output():
    host = Team((HOST,), Tiling.even((1, 1, 1)))
    team = Team(range(4), Tiling.even((1, 2, 2)))
    extent = (1, 8, 8)
    split = Exchange(
        0, "x", "input", host, team, host.tiling.spans(extent), team.tiling.spans(extent), 4
    )
    assert [t.target for t in split.sends(HOST)] == [0, 1, 2, 3]
    gather = Exchange(
        1, "y", "output", team, host, team.tiling.spans(extent), host.tiling.spans(extent), 4
    )
    assert [t.region for t in gather.receives(HOST)] == [t.region for t in split.sends(HOST)]


def test_index_skips_the_channels():
    x = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    region = Region(((1, 2), (0, 2), (3, 5)))
    assert piece_of(x, region.spans).shape == (1, 3, 2, 2)
