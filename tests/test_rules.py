"""Each rule against the untiled operator, region by region, in every dimension it exists in."""

import itertools

import pytest
import torch
from networks import AVG_POOLS, CONVS, MAX_POOLS
from torch import nn

from spnb.graph import capture
from spnb.layout import needed
from spnb.node import index_of
from spnb.region import Region
from spnb.rules import Rule, Window, rule, rule_of
from spnb.weights import tensors_of

SIZES = {1: (23,), 2: (11, 8), 3: (7, 5, 6)}


def only_node(net, shape):
    graph = capture(net, shape, torch.float64)
    return graph.nodes[-1]


def check_every_region(net, axes, channels=4, batch=2):
    """Compute every region with few cuts from exactly its need, against the whole."""
    net = net.double().eval()
    x = torch.randn(batch, channels, *SIZES[axes], dtype=torch.float64)
    with torch.no_grad():
        whole = net(x)
    node = only_node(net, tuple(x.shape))
    tiled = rule_of(node)
    extent = (batch, *SIZES[axes])
    weights = tensors_of(net, [w.name for w in node.weights])
    cuts = [sorted({0, 1, n // 2, n - 1, n} - {-1}) for n in (*whole.shape[:1], *whole.shape[2:])]
    spans = [[(a, b) for a, b in itertools.combinations(c, 2)] for c in cuts]
    for box in itertools.islice(itertools.product(*spans), 0, None, 7 if axes < 3 else 97):
        region = Region(box)
        need = Region(tuple(needed(tiled, 0, a, s, n) for a, (s, n) in enumerate(zip(box, extent))))
        inside = need & Region.whole(extent)
        piece = x[index_of([slice(*s) for s in inside.spans])]
        with torch.no_grad():
            out = tiled.apply([piece], [need], region, weights)
        expected = whole[index_of([slice(*s) for s in box])]
        assert out.shape == expected.shape, (net, region)
        assert torch.allclose(out, expected, rtol=0, atol=1e-12), (net, region)


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 2, "padding": 1},
        {"kernel_size": 3, "stride": 2},
        {"kernel_size": 3, "dilation": 2, "padding": 3},
        {"kernel_size": 1, "stride": 2},
        {"kernel_size": 4, "padding": "same"},
        {"kernel_size": 3, "padding": "valid"},
        {"kernel_size": 3, "padding": 1, "groups": 4},
        {"kernel_size": 3, "padding": 1, "bias": False, "groups": 2},
    ],
    ids=str,
)
def test_convolution(axes, options):
    check_every_region(CONVS[axes](4, 8, **options), axes)


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("window", [(2, 2, 0), (3, 2, 1), (3, 1, 1), (3, 3, 0), (2, 3, 1)])
def test_max_pool(axes, ceil, window):
    check_every_region(MAX_POOLS[axes](*window, ceil_mode=ceil), axes)


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize("window", [(2, 2, 0), (3, 2, 1), (3, 1, 1), (3, 3, 0), (2, 3, 1)])
def test_avg_pool(axes, ceil, counted, window):
    check_every_region(AVG_POOLS[axes](*window, ceil, counted), axes)


@pytest.mark.parametrize("override", [1, 5])
def test_avg_pool_with_a_divisor_of_its_own(override):
    check_every_region(nn.AvgPool2d(3, 2, 1, divisor_override=override), 2)


def test_dilated_max_pool():
    check_every_region(nn.MaxPool2d(2, 1, 1, dilation=3), 2)


@pytest.mark.parametrize("pads", [(1, 2), (-1, 1, 0, 2), (1, 0, 2, 1), (0, 0, 0, 0, 1, 3)], ids=str)
def test_constant_padding(pads):
    class Pad(nn.Module):
        def forward(self, x):
            return nn.functional.pad(x, pads, value=2.5)

    check_every_region(Pad(), 2)


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm2d(4),
        nn.GELU(),
        nn.PReLU(4),
        nn.Softmax(dim=1),
        nn.LogSoftmax(dim=-3),
        nn.Dropout(0.5),
        nn.Hardswish(),
        nn.Identity(),
    ],
    ids=str,
)
def test_elementwise_and_over_channels(layer):
    check_every_region(nn.Sequential(nn.Hardtanh(-9, 9), layer)[1:], 2) if not isinstance(
        layer, nn.Identity
    ) else check_every_region(nn.Sequential(layer, nn.SiLU()), 2)


def test_a_weight_with_space_of_its_own_is_cut_with_the_tile():
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(torch.randn(4, *SIZES[2]))

        def forward(self, x):
            return x * self.table

    check_every_region(Positions(), 2)


class Spatial(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.flatten(1),
        lambda x: x.mean((2, 3)),
        lambda x: torch.cat([x, x], dim=2),
        lambda x: x.softmax(dim=3),
        lambda x: nn.functional.adaptive_avg_pool2d(x, 1),
        lambda x: nn.functional.pad(x, (1, 1, 1, 1), mode="reflect"),
        lambda x: x.transpose(2, 3),
        lambda x: nn.functional.interpolate(x, scale_factor=2),
    ],
)
def test_what_mixes_positions_gathers(function):
    found = rule_of(only_node(Spatial(function), (2, 4, 8, 8)))
    assert found.gathers
    assert found.need(0, 1, (2, 3)) == (0, 8)
    assert found.need(0, 0, (1, 2)) == (1, 2)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.mean(0, keepdim=True),
        lambda x: x.sum(),
        lambda x: x.softmax(dim=0),
        lambda x: torch.cat([x, x], dim=0),
        lambda x: x.flatten(),
        lambda x: x.transpose(0, 1),
        lambda x: torch.nn.functional.batch_norm(x, None, None, training=True),
        lambda x: torch.fft.fft(x).real,
    ],
)
def test_what_mixes_images_or_is_unknown_has_no_rule(function):
    graph = capture(Spatial(function), (2, 4, 8, 8), torch.float64)
    assert any(rule_of(node) is None for node in graph.nodes)


def test_a_rule_of_the_users_own():
    torch.library.define("spnbtest::twice", "(Tensor x) -> Tensor")
    torch.library.impl("spnbtest::twice", "CompositeExplicitAutograd")(lambda x: x * 2)
    torch.library.register_fake("spnbtest::twice")(lambda x: torch.empty_like(x))
    net = Spatial(torch.ops.spnbtest.twice)
    assert rule_of(only_node(net, (2, 4, 8, 8))) is None
    rule("spnbtest.twice")(lambda node: Rule(node))
    check_every_region(net, 2)


def test_need_runs_past_the_extent_by_the_padding():
    node = only_node(nn.Conv2d(1, 1, 5, stride=2, dilation=2, padding=4), (1, 1, 20, 20))
    found = rule_of(node)
    assert isinstance(found, Window)
    assert found.need(0, 1, (0, 1)) == (-4, 5)
    assert found.need(0, 1, (3, 5)) == (2, 13)
