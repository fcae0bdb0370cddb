"""Gradients of attention within windows and grids, and of Fourier transforms in windows."""

import pytest
import torch
from networks import randomize
from tiled import Call, noise
from torch import nn
from training_steps import check, grid
from window_networks import (
    MaxViTBlock,
    OmniBlock,
    OverlappingCross,
    SwinBlock,
    WindowFilter,
    of_global_queries,
)

NETWORKS = {
    "Swin, shifted and padded": SwinBlock,
    "MaxViT": lambda: MaxViTBlock(fused=False),
    "OmniSR": OmniBlock,
    "HAT": OverlappingCross,
    "Global filter": WindowFilter,
    "GC ViT": lambda: Call(of_global_queries, nn.Conv2d(8, 8, 3, padding=1)),
}
ODD = (1, 8, 11, 14)
EVEN = (1, 8, 12, 16)


@pytest.mark.long
@pytest.mark.parametrize("network", NETWORKS)
def test_gradients_are_those_of_the_untiled_network(network):
    torch.manual_seed(0)
    net = randomize(NETWORKS[network]()).double()
    shape = ODD if "padded" in network else EVEN
    check(net, noise(*shape), noise(*shape, seed=2), [grid(2, 2)])
