"""Constants as large as the image are computed by each tile for its own part."""

import math

import pytest
import torch
from networks import randomize
from running import captured, planned
from tiled import Call, check_regions, check_tiled, noise
from torch import nn
from training_steps import check, grid
from window_networks import SwinBlock

from spnb.analysis.weight_memory import weight_bytes
from spnb.capture.rewrites.cut_constants import LEAST
from spnb.ir.tiling import Tiling
from spnb.rules.cut_constants import CONSTANT

SHAPE = (1, 8, 36, 32)  # 72 windows of 4×4: masks of 18,432 numbers


def coordinates(x):
    h, w = x.shape[2:]
    rows, columns = torch.meshgrid(
        torch.linspace(-1, 1, h, dtype=x.dtype), torch.arange(w).to(x.dtype), indexing="ij"
    )
    both = torch.stack([rows, columns * columns, rows * columns]).repeat_interleave(1, 0)
    return x[:, :3] + both[None].expand(x.shape[0], -1, -1, -1) * 2


def framed(x):
    inside = torch.zeros(x.shape[2:], dtype=torch.bool)
    inside[2:-3, 5:20] = True
    return x.masked_fill(~inside, 0.5)


NETWORKS = {
    "mask": (SwinBlock, SHAPE),
    "mask, padded": (SwinBlock, (1, 8, 35, 46)),
    "mask, shifted by one": (lambda: SwinBlock(shift=1), SHAPE),
    "mask of a batch": (SwinBlock, (2, *SHAPE[1:])),
    "mask as a buffer": (lambda: SwinBlock(mask_of=SHAPE[2:]), SHAPE),
    "frame": (lambda: Call(framed), (1, 4, 128, 130)),
}


def made(graph):
    return [node for node in graph.nodes if node.op == CONSTANT]


@pytest.mark.slow(but_each=2)
@pytest.mark.long
@pytest.mark.parametrize("network", NETWORKS)
def test_a_constant_is_cut(network):
    make, shape = NETWORKS[network]
    net = make()
    graph = captured(net.double(), [shape], torch.float64)
    (constant,) = made(graph)
    large = [w for node in graph.nodes for w in node.weights if math.prod(w.shape) >= LEAST]
    assert not [w for w in large if w not in constant.weights]
    plans = check_tiled(net, shape, grids=[(2, 3)])
    for plan in plans:
        (constant,) = made(plan.graph)
        needs = plan.stage_needs[0, shape[0]].computed[constant.name]
        parts = math.prod(max(stop - start for start, stop in spans) for spans in needs)
        assert parts < 0.3 * math.prod(constant.axes.extent)


@pytest.mark.long
def test_any_region_of_a_constant():
    check_regions(SwinBlock(), SHAPE, most=4)


def test_what_cannot_be_followed_back_is_held_whole():
    check_tiled(Call(coordinates), (2, 4, 64, 66), grids=[(2, 2)])
    net = Call(lambda x: x + torch.arange(128 * 130, dtype=x.dtype).view(130, 128).t().roll(3, 1))
    assert not made(captured(net, [(1, 2, 128, 130)], torch.float64))
    check_tiled(net, (1, 2, 128, 130), grids=[(2, 2)])


def test_a_parameter_is_held_whole():
    class Embedded(nn.Module):
        def __init__(self):
            super().__init__()
            self.position = nn.Parameter(torch.zeros(1, 2, 128, 130))

        def forward(self, x):
            return x + self.position

    assert not made(captured(Embedded(), [(1, 2, 128, 130)], torch.float64))


@pytest.mark.long
def test_the_bytes_of_a_cut_buffer_are_not_those_of_a_weight():
    bare, buffer = SwinBlock().double(), SwinBlock(mask_of=SHAPE[2:]).double()
    plans = [planned(net, [SHAPE], [Tiling.even((1, 2, 2))]) for net in (bare, buffer)]
    without, held = (weight_bytes(plan, 0) for plan in plans)
    assert without == held < buffer.attn_mask.numel()


@pytest.mark.long
def test_a_mask_in_training():
    torch.manual_seed(0)
    net = randomize(SwinBlock()).double()
    assert made(captured(net, [SHAPE], torch.float64, training=True))
    check(net, noise(*SHAPE), noise(*SHAPE, seed=2), [grid(2, 2)])
