"""Regions and tilings: boxes, exact covers, grids."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spnb.ir.region import Region, intersect, join, length
from spnb.ir.tiling import Tiling, grid_of

spans = st.tuples(st.integers(-9, 30), st.integers(0, 20)).map(lambda p: (p[0], p[0] + p[1]))


@given(spans, spans)
def test_meet_and_join_agree_with_sets_of_positions(a, b):
    one, two = set(range(*a)), set(range(*b))
    assert set(range(*intersect(a, b))) == one & two
    if one or two:
        both = one | two
        assert join(a, b) == (min(both), max(both) + 1)


@given(
    extent=st.lists(st.integers(1, 50), min_size=1, max_size=4),
    weights=st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=6), min_size=4, max_size=4),
)
def test_tiles_cover_every_position_once(extent, weights):
    tiling = Tiling(tuple(map(tuple, weights[: len(extent)])))
    for n, axis in zip(extent, tiling.spans(extent), strict=True):
        assert [k for a, b in axis for k in range(a, b)] == list(range(n))
    assert (
        sum(tiling.region(extent, t).size for t in range(tiling.num_tiles))
        == Region.whole(extent).size
    )


@given(n=st.integers(1, 1000), parts=st.integers(1, 30))
def test_even_cuts_differ_by_one_at_most(n, parts):
    sizes = {length(span) for span in Tiling.even((parts,)).spans((n,))[0]}
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.long
@given(grid=st.lists(st.integers(1, 5), min_size=1, max_size=4), data=st.data())
def test_tile_numbers_and_coordinates_are_inverse(grid, data):
    tiling = Tiling.even(grid)
    tile = data.draw(st.integers(0, tiling.num_tiles - 1))
    assert tiling.tile(tiling.coordinates(tile)) == tile


def test_slices_of_a_region_outside_are_refused():
    with pytest.raises(ValueError, match=r"Region\(0:5\) is not inside Region\(1:9\)"):
        Region(((0, 5),)).slices_in(Region(((1, 9),)))


def test_an_axis_that_a_tensor_lacks_cannot_be_cut():
    with pytest.raises(ValueError, match="cannot cut"):
        Tiling.even((1, 2, 1)).spans((4,))


@pytest.mark.parametrize(
    ("tiles", "axes", "grid"),
    [
        (1, 2, (1, 1)),
        (2, 2, (1, 2)),
        (4, 2, (2, 2)),
        (5, 2, (1, 5)),
        (6, 2, (2, 3)),
        (9, 2, (3, 3)),
        (12, 2, (3, 4)),
        (4096, 2, (64, 64)),
        (3, 1, (3,)),
        (8, 3, (2, 2, 2)),
        (12, 3, (2, 2, 3)),
    ],
)
def test_square_takes_the_nearest_grid(tiles, axes, grid):
    assert grid_of("square", tiles, axes) == grid


def test_vertical_cuts_the_width_and_horizontal_the_height():
    assert grid_of("vertical", 3, 2) == (1, 3)
    assert grid_of("horizontal", 3, 2) == (3, 1)
    assert grid_of("horizontal", 3, 3) == (1, 3, 1)
    assert grid_of("vertical", 3, 1) == grid_of("horizontal", 3, 1) == (3,)
    assert grid_of("3x2", 6, 2) == (3, 2)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("diagonal", "unknown slice method 'diagonal': use square, vertical, horizontal"),
        ("2x2", "the grid 2x2 has 2 axes and 4 tiles, but the image has 2 axes and the stage 6"),
        ("2x3x1", "has 3 axes"),
    ],
)
def test_methods_that_do_not_fit_are_refused(method, message):
    with pytest.raises(ValueError, match=message):
        grid_of(method, 6, 2)
