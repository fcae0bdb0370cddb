"""Windows and grids of windows, of any size and shifted: exchanged, and never gathered."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiled import Call, check_regions, check_tiled
from torch import nn
from torch.nn import functional as F
from window_networks import (
    FourierUnit,
    LeWin,
    LocallyGrouped,
    MaxViTBlock,
    OmniBlock,
    OverlappingCross,
    Shuffle,
    SwinBlock,
    SwinIR,
    SwinV2Attention,
    VideoSwin,
    WindowFilter,
    of_global_queries,
)
from windows import windows

FEW = settings(max_examples=25, deadline=None, derandomize=True)
SHAPE = (2, 8, 20, 28)  # five and seven windows of 4×4: tiles are cut inside of windows
ODD = (1, 8, 19, 26)

NETWORKS = {
    "Swin": (lambda: SwinBlock(shift=0), SHAPE),
    "Swin, shifted": (SwinBlock, SHAPE),
    "Swin, shifted and padded": (SwinBlock, ODD),
    "Swin, mask as a buffer": (lambda: SwinBlock(mask_of=SHAPE[2:]), SHAPE),
    "Swin V2": (SwinV2Attention, SHAPE),
    "MaxViT": (MaxViTBlock, SHAPE),
    "MaxViT, products": (lambda: MaxViTBlock(fused=False), SHAPE),
    "Twins": (LocallyGrouped, ODD),
    "HAT": (OverlappingCross, SHAPE),
    "Uformer": (LeWin, SHAPE),
    "SwinIR": (SwinIR, (1, 3, 19, 26)),
    "Shuffle transformer": (Shuffle, SHAPE),
    "OmniSR": (OmniBlock, SHAPE),
    "Global filter": (WindowFilter, SHAPE),
    "Fourier unit": (FourierUnit, SHAPE),
}


@pytest.mark.slow(but_each=5)
@pytest.mark.long
@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_of_windows(network):
    make, shape = NETWORKS[network]
    plans = check_tiled(make(), shape, grids=[(2, 3), (3, 2)])
    assert not any(plan.gathered for plan in plans)


@pytest.mark.long
@pytest.mark.parametrize("network", ["Swin, shifted and padded", "MaxViT", "OmniSR", "SwinIR"])
def test_any_region_of_a_network_of_windows(network):
    make, shape = NETWORKS[network]
    check_regions(make(), shape, most=6)


@pytest.mark.long
def test_windows_of_a_volume():
    plans = check_tiled(VideoSwin(), (1, 4, 6, 9, 10), grids=[(2, 1, 2), (1, 3, 2)])
    assert not any(plan.gathered for plan in plans)


def attended(x, dims=1):
    return (x @ x.transpose(-2, -1)).softmax(-1) @ x


@pytest.mark.long
def test_queries_that_are_copied_for_each_window_are_held_whole():
    net = Call(of_global_queries, nn.Conv2d(8, 8, 3, padding=1))
    check_regions(net, SHAPE, most=8)
    plans = check_tiled(net, SHAPE, grids=[(2, 3), (3, 1)])
    assert not any(plan.gathered for plan in plans)
    held = [n for plan in plans for n in plan.graph.nodes if n.kind == "held_whole"]
    assert {node.shape for node in held} == {(2, 1, 16, 8)}


def volume_grid(x):
    """b c (g d) (g h) (w 2) -> (b d h w) (g g 2) c, and back."""
    b, c, d, h, w = x.shape
    y = x.view(b, c, 2, d // 2, 3, h // 3, w // 2, 2).permute(0, 3, 5, 6, 2, 4, 7, 1)
    y = attended(y.reshape(-1, 12, c)).view(b, d // 2, h // 3, w // 2, 2, 3, 2, c)
    return x + y.permute(0, 7, 4, 1, 5, 2, 3, 6).reshape(x.shape)


def rows_in_a_grid(x):
    """A grid along rows, windows along columns, straight from tokens and back to tokens."""
    b, c, h, w = x.shape
    tokens = x.flatten(2).transpose(1, 2)
    y = tokens.reshape(b, 4, h // 4, w // 4, 4, c).permute(0, 2, 3, 1, 4, 5)
    y = attended(y.reshape(-1, 16, c)).reshape(b, h // 4, w // 4, 4, 4, c)
    return tokens + y.permute(0, 3, 1, 2, 4, 5).reshape(b, h * w, c)


def columns_in_a_grid(x):
    b, c, h, w = x.shape
    tokens = x.flatten(2).transpose(1, 2)
    y = tokens.reshape(b, h, 4, w // 4, c).transpose(2, 3)
    y = attended(y).transpose(2, 3).reshape(b, h * w, c)
    return (tokens + y).transpose(1, 2).view(x.shape)


def grid_in_windows(x):
    """Every second position of windows of 4×4."""
    b, c, h, w = x.shape
    y = x.view(b, c, h // 4, 2, 2, w // 4, 2, 2).permute(0, 2, 5, 4, 7, 3, 6, 1)
    y = attended(y.reshape(-1, 4, c)).view(b, h // 4, w // 4, 2, 2, 2, 2, c)
    return x + y.permute(0, 7, 1, 5, 3, 2, 6, 4).reshape(x.shape)


def of_grid(function):
    """A function of the 16 positions of each window of a grid of 4×4."""

    def net(x):
        b, c, h, w = x.shape
        y = x.view(b, c, 4, h // 4, 4, w // 4).permute(0, 1, 3, 5, 2, 4)
        return function(y.reshape(b, c, h // 4, w // 4, 16))

    return net


def stripes(x):
    """Stripes of four rows, of which each position attends to the others of its stripe's column."""
    b, c, h, w = x.shape
    y = x.view(b, c, h // 4, 4, w // 7, 7).permute(0, 2, 4, 3, 5, 1)
    return attended(y.reshape(-1, 28, c)).view(b, h // 4, w // 7, 4, 7, c)


def folded(x):
    """Windows by unfold, and back by fold."""
    b, c, h, w = x.shape
    y = F.unfold(x, 4, stride=4).view(b, c, 16, -1).permute(0, 3, 2, 1)
    return F.fold(attended(y).permute(0, 3, 2, 1).reshape(b, c * 16, -1), (h, w), 4, stride=4)


def sliding(x):
    """Overlapping windows by Tensor.unfold."""
    y = x.unfold(2, 6, 2).unfold(3, 6, 2).flatten(-2).permute(0, 2, 3, 4, 1)
    return attended(y).mean(3).permute(0, 3, 1, 2)


GRIDS = {
    "rows in a grid": rows_in_a_grid,
    "columns in a grid": columns_in_a_grid,
    "grid in windows": grid_in_windows,
    "stripes": stripes,
    "folded": folded,
    "sliding": sliding,
    "sort": of_grid(lambda y: y.sort(-1)[0]),
    "topk": of_grid(lambda y: y.topk(3, -1)[0]),
    "median": of_grid(lambda y: y.median(-1)[0]),
    "argmax": of_grid(lambda y: y.argmax(-1)),
    "fft": of_grid(lambda y: torch.fft.fft(y).abs()),
    "flip": of_grid(lambda y: y.flip(-1).cumsum(2) if y.shape[2] < 2 else y.flip(-1)),
    "gather": of_grid(lambda y: y.gather(-1, y.argsort(-1))),
    "in windows": lambda x: windows(x.permute(0, 2, 3, 1)).cumsum(1).sort(1)[0].argmax(1),
    "fft2 in windows": lambda x: torch.fft.fft2(windows(x.permute(0, 2, 3, 1))).real,
}


@pytest.mark.slow(but_each=2)
@pytest.mark.long
@pytest.mark.parametrize("network", GRIDS)
def test_a_grid_of_windows(network):
    net = Call(GRIDS[network])
    check_regions(net, SHAPE, most=8)
    plans = check_tiled(net, SHAPE, grids=[(2, 3), (1, 3), (3, 1)])
    assert not any(plan.gathered for plan in plans)


def test_a_grid_of_windows_of_a_volume():
    plans = check_tiled(Call(volume_grid), (1, 3, 6, 9, 8), grids=[(2, 3, 1), (1, 2, 2)])
    assert not any(plan.gathered for plan in plans)


def drawn(rows, columns, in_grid, function):
    """Windows of ``rows`` times ``columns``, or grids; the shape of the image stays."""

    def net(x):
        b, c, h, w = x.shape
        sizes = [(h, rows), (w, columns)]
        parts = [(k, n // k) if grid else (n // k, k) for (n, k), grid in zip(sizes, in_grid)]
        window = [position + (not grid) for position, grid in zip((2, 4), in_grid)]
        beside = [position + grid for position, grid in zip((2, 4), in_grid)]
        order = [0, *beside, *window, 1]
        y = x.view(b, c, *parts[0], *parts[1]).permute(order)
        shape = y.shape
        y = function(y.reshape(-1, rows * columns, c)).view(shape)
        return x + y.permute([order.index(k) for k in range(6)]).reshape(b, c, h, w)

    return Call(net)


@pytest.mark.long
@FEW
@given(
    size=st.tuples(*[st.integers(2, 5)] * 4),
    in_grid=st.tuples(st.booleans(), st.booleans()),
    tiles=st.tuples(st.integers(1, 4), st.integers(1, 3)),
    function=st.sampled_from([attended, lambda y: y.sort(1)[0]]),
)
def test_windows_and_grids_of_any_size(size, in_grid, tiles, function):
    rows, columns, down, across = size
    net = drawn(rows, columns, in_grid, function)
    plans = check_tiled(net, (2, 3, rows * down, columns * across), grids=[tiles])
    assert not any(plan.gathered for plan in plans)


def test_a_convolution_after_a_grid():
    def net(layers, x):
        return layers[0](x - of_grid_image(x))

    def of_grid_image(x):
        b, c, h, w = x.shape
        y = of_grid(lambda y: y.sort(-1)[0])(x).view(b, c, h // 4, w // 4, 4, 4)
        return y.permute(0, 1, 4, 2, 5, 3).reshape(x.shape)

    plans = check_tiled(Call(net, nn.Conv2d(8, 4, 3, padding=1)), SHAPE, grids=[(2, 2)])
    assert not any(plan.gathered for plan in plans)


def test_a_tile_receives_about_a_tile():
    shape = (1, 8, 64, 64)
    (plan,) = check_tiled(Call(GRIDS["sort"]), shape, grids=[(2, 2)], fused=[0])
    tile, arrived = 8 * 32 * 32 * 8, 0
    for exchange in plan.exchanges[1]:
        if 0 in exchange.target.ranks:
            regions = (transfer.region for transfer in exchange.receives(0))
            arrived += sum(region.size for region in regions) * exchange.position_bytes
    assert tile < arrived < 2.5 * tile


def kinds(plans):
    return {exchange.kind for plan in plans for exchange in plan.exchanges[SHAPE[0]]}


@pytest.mark.parametrize("fused", [False, True])
def test_keys_of_a_grid_do_not_go_round(fused):
    assert "ring" not in kinds(check_tiled(MaxViTBlock(fused=fused), SHAPE, grids=[(2, 2)]))


def unfolded(x):
    """Every second position attends to the others, as in MobileViT (Mehta and Rastegari, 2022)."""
    b, c, h, w = x.shape
    y = x.reshape(b * c * (h // 2), 2, w // 2, 2).transpose(1, 2)
    y = y.reshape(b, c, h * w // 4, 4).transpose(1, 3).reshape(b * 4, h * w // 4, c)
    y = attended(y).view(b, 4, h * w // 4, c).transpose(1, 3)
    y = y.reshape(b * c * (h // 2), w // 2, 2, 2).transpose(1, 2)
    return x + y.reshape(b, c, h, w)


def whole_stripes(layers, x):
    """Dong et al., *CSWin*, 2022: stripes as high, and as wide, as the image."""
    b, _, h, w = x.shape
    found = []
    for layer, (down, across) in zip(layers, ((h, 7), (5, w))):
        y = layer(x)
        shape = (b, y.shape[1], h // down, down, w // across, across)
        y = y.view(shape).permute(0, 2, 4, 3, 5, 1).reshape(-1, down * across, y.shape[1])
        y = attended(y).view(b, h // down, w // across, down, across, -1)
        found.append(y.permute(0, 5, 1, 3, 2, 4).reshape(b, -1, h, w))
    return x + torch.cat(found, 1)


def subsampled(layers, x):
    """Chu et al., *Twins*, 2021: all positions attend to one of each window."""
    q, k = (y.flatten(2).transpose(1, 2)[:, None] for y in (x, layers[0](x)))
    y = F.scaled_dot_product_attention(q, k, k).squeeze(1)
    return x + y.transpose(1, 2).view(x.shape)


ROUND = {
    "MobileViT": lambda: Call(unfolded),
    "CSWin": lambda: Call(whole_stripes, nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)),
    "Twins": lambda: Call(subsampled, nn.Conv2d(8, 8, 4, stride=4)),
}


@pytest.mark.parametrize("network", ROUND)
def test_keys_go_round_where_windows_span_the_image(network):
    plans = check_tiled(ROUND[network](), SHAPE, grids=[(2, 3), (2, 1)])
    assert not any(plan.gathered for plan in plans)
    assert "ring" in kinds(plans)


def test_keys_that_heads_share_go_round():
    def net(layers, x):
        b, c, h, w = x.shape
        q = x.flatten(2).transpose(1, 2).view(b, h * w, 8, 1).transpose(1, 2)
        k, v = layers[0](x).flatten(2).transpose(1, 2)[:, None].expand(-1, 8, -1, -1).chunk(2, -1)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, h, w, c)

    assert "ring" in kinds(check_tiled(Call(net, nn.Conv2d(8, 2, 1)), SHAPE, grids=[(2, 2)]))
