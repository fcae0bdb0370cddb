"""Interpolation, adaptive pooling, pixel shuffle."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiled import Call, check, check_tiled
from torch import nn
from torch.nn import functional as F

from spnb.rules import interpolate, rule_of

FEW = settings(max_examples=15, deadline=None, derandomize=True)
SIZES = {1: (2, 4, 23), 2: (2, 4, 13, 11), 3: (1, 2, 5, 6, 4)}
METHODS = {
    1: ["nearest", "nearest-exact", "linear"],
    2: ["nearest", "nearest-exact", "bilinear", "bicubic"],
    3: ["nearest", "nearest-exact", "trilinear"],
}


BANDS = [
    pytest.param(1 << 20, id="at once"),
    pytest.param(300, id="in bands", marks=pytest.mark.slow),
]


@pytest.fixture(params=BANDS)
def band(request, monkeypatch):
    monkeypatch.setattr(interpolate, "BAND", request.param)


@pytest.mark.long
@pytest.mark.usefixtures("band")
@settings(FEW, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), axes=st.sampled_from([1, 2, 2, 3]))
def test_interpolation(data, axes):
    method = data.draw(st.sampled_from(METHODS[axes]))
    options = {"mode": method}
    if "nearest" not in method:
        options["align_corners"] = data.draw(st.booleans())
    if data.draw(st.booleans()):
        options["size"] = data.draw(st.tuples(*[st.integers(1, 25)] * axes))
    else:
        options["scale_factor"] = data.draw(st.tuples(*[st.floats(0.4, 3.1)] * axes))
        options["recompute_scale_factor"] = data.draw(st.sampled_from([None, True]))
    check(Call(lambda x: F.interpolate(x, **options)), SIZES[axes])


@pytest.mark.long
@pytest.mark.usefixtures("band")
@settings(FEW, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_antialiased_interpolation(data):
    method, corners = data.draw(st.sampled_from(METHODS[2][2:])), data.draw(st.booleans())
    options = {"mode": method, "align_corners": corners, "antialias": True}
    if data.draw(st.booleans()):
        # PyTorch 2.13 itself gives wrong numbers for a single column.
        options["size"] = data.draw(st.tuples(st.integers(1, 25), st.integers(2, 25)))
    else:
        options["scale_factor"] = data.draw(st.tuples(st.floats(0.1, 3.1), st.floats(0.2, 3.1)))
    check(Call(lambda x: F.interpolate(x, **options)), SIZES[2])


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(4, 5), (13, 3), (1, 24), (6, 30)])
def test_antialiased_windows_reach_as_far_as_their_steps(method, size):
    net = Call(lambda x: F.interpolate(x, size, mode=method, antialias=True))
    plans = check(net, SIZES[2], grids=[(2, 3)])
    assert not any(plan.gathered for plan in plans)


def test_antialiased_interpolation_keeps_nan_and_infinity_in_their_windows():
    def with_nan(x):
        x = torch.where(x > 1.8, torch.nan, torch.where(x < -1.8, torch.inf, x))
        return F.interpolate(x, (5, 7), mode="bilinear", antialias=True)

    check_tiled(Call(with_nan), (1, 2, 13, 17), grids=[(2, 3)])


RESIZES = {
    "same": {"size": (13, 17)},
    "larger": {"size": (21, 29)},
    "smaller": {"size": (5, 6)},
    "by 1.5": {"scale_factor": 1.5},
    "by 2": {"scale_factor": 2},
    "by 4 and 1": {"scale_factor": (4, 1)},
    "by 3": {"scale_factor": 3},
    "by 0.5": {"scale_factor": 0.5},
}


@pytest.mark.slow(but_each=4)
@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("antialias", [False, True])
def test_nan_and_infinity_reach_what_they_do_untiled(mode, corners, resize, antialias):
    """PyTorch also reads positions that have no weight: those beside them become NaN."""

    def net(x):
        x = torch.where(x > 1.7, torch.nan, torch.where(x < -1.9, torch.inf, x))
        x[:, 1, 0, 0], x[:, 1, -1, -2] = torch.inf, -torch.inf
        how = RESIZES[resize]
        return F.interpolate(x, mode=mode, align_corners=corners, antialias=antialias, **how)

    check_tiled(Call(net), (1, 2, 13, 17), grids=[(2, 3)])


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("factor", [2, 1.5, 3])
def test_nan_and_infinity_in_a_line(mode, factor):
    def net(x):
        x = torch.where(x > 1.7, torch.nan, torch.where(x < -1.9, torch.inf, x))
        return F.interpolate(x, scale_factor=factor, mode=mode)

    check_tiled(Call(net), (1, 2, 43), grids=[(4,)])


def test_a_long_line_is_antialiased_by_a_large_factor():
    net = Call(lambda x: F.interpolate(x, (2, 150), mode="bilinear", antialias=True))
    check_tiled(net, (1, 1, 2, 20011), grids=[(1, 4)])


@pytest.mark.slow(but_each=2)
@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("factor", [1, 2, 4])
def test_doubling_is_done_by_the_operator_itself(axes, factor):
    factors = (factor, *[2] * (axes - 1))
    for method in METHODS[axes]:
        net = Call(lambda x, mode=method: F.interpolate(x, scale_factor=factors, mode=mode))
        plans = check(net, SIZES[axes])
        assert all(rule_of(node).doublings == list(factors) for node in plans[0].graph.nodes)


def test_a_long_line_keeps_its_weights():
    net = Call(lambda x: F.interpolate(x, scale_factor=(1, 1.37), mode="bilinear"))
    check(net, (1, 1, 2, 20011), grids=[(1, 4)])


def test_one_pixel_becomes_an_image():
    net = Call(lambda x: x + F.interpolate(F.adaptive_avg_pool2d(x, 1), x.shape[2:]))
    check(net, SIZES[2])


@pytest.mark.long
@FEW
@given(data=st.data(), axes=st.sampled_from([1, 2, 3]), largest=st.booleans())
def test_adaptive_pool(data, axes, largest):
    size = data.draw(st.tuples(*[st.integers(1, 7)] * axes))
    names = {
        True: (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d),
        False: (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d),
    }
    pool = names[largest][axes - 1]
    check(Call(lambda x: pool(x, size)), SIZES[axes])


def test_places_of_adaptive_maxima_are_gathered():
    net = Call(lambda x: F.adaptive_max_pool2d(x, 3, return_indices=True))
    check(net, SIZES[2], allow_gather=True)


@pytest.mark.parametrize("factor", [2, 3])
def test_pixel_shuffle(factor):
    check(nn.PixelShuffle(factor), (2, 2 * factor**2, 7, 5))
    check(nn.PixelUnshuffle(factor), (2, 2, 5 * factor, 4 * factor))
