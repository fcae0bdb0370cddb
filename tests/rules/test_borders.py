"""Padding as an operator of its own."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import CONVS
from tiled import Call, check, check_tiled
from torch.nn import functional as F

FEW = settings(max_examples=15, deadline=None, derandomize=True)
SIZES = {1: (2, 4, 19), 2: (2, 4, 9, 11), 3: (1, 2, 5, 6, 5)}


@pytest.mark.long
@FEW
@given(
    data=st.data(),
    axes=st.sampled_from([1, 2, 3]),
    mode=st.sampled_from(["constant", "reflect", "replicate", "circular"]),
)
def test_pad(data, axes, mode):
    around = data.draw(st.lists(st.integers(-2, 4), min_size=2 * axes, max_size=2 * axes))
    fill = {"value": 1.5} if mode == "constant" else {}
    net = Call(lambda x: F.pad(x, around, mode=mode, **fill))
    check(net, SIZES[axes])


@pytest.mark.parametrize(
    "before",
    [
        lambda x: x - x.mean((2, 3), keepdim=True),
        lambda x: F.adaptive_avg_pool2d(x, (5, 7)),
        lambda x: F.pad(x, (1, 2, 3, 4), mode="circular"),
        lambda x: x.cumsum(2).diff(dim=3),
    ],
    ids=["merged", "pooled", "padded", "scanned"],
)
def test_a_torus_that_is_cropped_at_one_end_and_grown_at_the_other(before):
    net = Call(lambda x: F.pad(before(x), (-2, 3, 2, -1), mode="circular"))
    plans = check_tiled(net, SIZES[2])
    assert not any(plan.gathered for plan in plans)


def test_constants_around_channels():
    check(Call(lambda x: F.pad(x, (1, 0, 0, 2, 3, 1), value=2.0)), SIZES[2])


@pytest.mark.slow(but_each=3)
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_padding_mode_of_a_convolution(mode, axes):
    layer = CONVS[axes](SIZES[axes][1], 4, 5, 1, 2, padding_mode=mode)
    check(layer, SIZES[axes])
    check(Call(lambda m, x: m[0](x.relu()), layer), SIZES[axes])


def test_a_torus_exchanges_its_ends_only():
    net = Call(lambda x: F.pad(x, (1, 1), mode="circular"))
    plan, *_ = check(net, (1, 1, 400), grids=[(4,)])
    assert not plan.gathered
    halos = [e for e in plan.exchanges[1] if e.kind == "halo"]
    assert sum(e.sent(1)[1] for e in halos) <= 3 * 8


@pytest.mark.parametrize("mode", ["constant", "replicate"])
def test_channels_of_tokens_are_padded_where_they_are(mode):
    net = Call(lambda x: F.pad(x.flatten(2), (0, 0, 1, 2), mode=mode))
    if mode == "replicate":
        net = Call(lambda x: F.pad(x.flatten(2)[:, None], (0, 0, 1, 2), mode=mode))
    plans = check(net, (2, 3, 6, 8), grids=[(2, 2)])
    assert not any(plan.gathered for plan in plans)
