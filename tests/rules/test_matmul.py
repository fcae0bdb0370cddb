"""Linear layers, matrix products, attention."""

import pytest
import torch
from tiled import Call, check, check_regions
from torch import nn
from torch.nn import functional as F
from windows import image, windows

from spnb.errors import PlanError

IMAGE = (2, 8, 8, 12)


def tokens(x):
    return x.flatten(2).transpose(1, 2)


@pytest.mark.parametrize(
    "function, modules",
    [
        (lambda m, x: m[0](x.permute(0, 2, 3, 1)), [nn.Linear(8, 5)]),
        (lambda m, x: m[0](tokens(x)), [nn.Linear(8, 5, bias=False)]),
        (lambda m, x: torch.einsum("bchw,dc->bdhw", x, m[0].weight), [nn.Linear(8, 5)]),
        (lambda m, x: m[0].weight @ x.flatten(2), [nn.Linear(8, 5)]),
        (lambda m, x: m[0](x.mean((2, 3))), [nn.Linear(8, 5)]),
    ],
)
def test_products_over_channels_stay_on_the_tile(function, modules):
    plans = check(Call(function, *modules), IMAGE)
    assert not any(plan.gathered for plan in plans)


def self_attention(x, heads=2):
    b, n, c = x.shape
    q, k, v = x.view(b, n, 1, heads, c // heads).expand(-1, -1, 3, -1, -1).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k * 2, v + 1).transpose(1, 2).reshape(b, n, c)


def written_out(x):
    scores = x @ x.transpose(-2, -1) / 3
    return scores.softmax(-1) @ x


@pytest.mark.parametrize("attention", [self_attention, written_out])
def test_attention_in_windows_stays_on_the_tile(attention):
    def net(x):
        x = x.permute(0, 2, 3, 1)
        return image(attention(windows(x)), x.shape).permute(0, 3, 1, 2)

    plans = check(Call(net), IMAGE)
    assert not any(plan.gathered for plan in plans)


@pytest.mark.parametrize("attention", [self_attention, written_out])
def test_attention_along_one_axis_moves_keys_along_that(attention):
    net = Call(lambda x: attention(x.permute(0, 2, 3, 1).flatten(0, 1)))
    for grid, rings in (((3, 1), 0), ((1, 3), 2)):
        plans = check(net, IMAGE, grids=[grid])
        for plan in plans:
            assert not plan.gathered
            kinds = [e.kind for e in plan.exchanges[2]]
            assert kinds.count("ring") in (rings, 2 * rings)  # keys that are their own values


def read_twice(x):
    """The weights are returned too, so they are computed."""
    weights = (x @ x.transpose(-2, -1)).softmax(-1)
    return weights @ x + weights.mean(-1, keepdim=True)


def test_weights_of_attention_are_held_by_the_tile_of_their_queries():
    """They are larger than the keys and values, which are not gathered more than the weights."""
    net = Call(lambda x: read_twice(tokens(x)).transpose(1, 2).view(x.shape))
    assert not any(plan.gathered for plan in check(net, IMAGE, grids=[(2, 2)]))
    few = (2, 32, 4, 4)
    check_regions(net, few)
    with pytest.raises(PlanError, match=r"needs the whole extent 4×4.*allow_gather=True"):
        check(net, few)
    plans = check(net, few, grids=[(2, 2)], allow_gather=True)
    assert all(plan.gathered for plan in plans)


@pytest.mark.parametrize("attention", [self_attention, written_out])
def test_global_attention_is_not_gathered(attention):
    net = Call(lambda x: attention(tokens(x)).transpose(1, 2).view(IMAGE))
    assert not any(plan.gathered for plan in check(net, IMAGE))


@pytest.mark.long
def test_multi_head_attention_with_tokens_of_fewer_positions():
    def net(m, x):
        small = tokens(m[1](x))
        return m[0](tokens(x), small, small)[0]

    modules = nn.MultiheadAttention(8, 2, batch_first=True), nn.Conv2d(8, 8, 2, 2)
    assert not any(plan.gathered for plan in check(Call(net, *modules), IMAGE))


@pytest.mark.long
def test_a_bias_for_each_window_is_cut_with_the_windows():
    def net(x):
        x = x.permute(0, 2, 3, 1)
        bias = torch.arange(6 * 16 * 16, dtype=x.dtype).view(6, 1, 16, 16).sin()
        w = windows(x)
        scores = (w @ w.transpose(1, 2)).view(2, 6, 1, 16, 16) + bias
        return image(scores.view(12, 16, 16).softmax(-1) @ w, x.shape)

    check(Call(net), IMAGE)


def test_classifiers_run_on_the_tiles_too():
    check(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)), IMAGE)
    net = nn.Sequential(nn.Flatten(), nn.Linear(8 * 96, 5))
    check(net, IMAGE, allow_gather=True)
