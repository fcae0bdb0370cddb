"""Blocks of a network: the modules that its author wrote one after the other."""

import torch
from networks import Residual
from planning import conv
from torch import nn

from spnb.capture.export import capture
from spnb.ir.blocks import blocks_of


def test_blocks_are_those_of_the_author():
    def names(net, shape):
        graph = capture(net, shape, torch.float32)
        assert blocks_of(graph.nodes, net) == graph.blocks
        return [block.path for block in graph.blocks]

    class Backbone(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = conv(3, 1)
            self.layers = nn.ModuleList([Residual(conv(3), nn.ReLU(), conv(3)) for _ in range(3)])

        def forward(self, x):
            x = self.stem(x)
            for layer in self.layers:
                x = layer(x)
            return x

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone, self.head = Backbone(), nn.Linear(3, 2)

        def forward(self, x):
            return self.head(self.backbone(x).mean((2, 3)))

    assert names(Wrapped(), (1, 3, 8, 8)) == [
        "backbone.stem",
        "backbone.layers.0",
        "backbone.layers.1",
        "backbone.layers.2",
        "head",
    ]


def test_lists_and_long_sequences_are_opened_and_a_conv_with_its_norm_is_not():
    class Vgg(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(conv(3), nn.ReLU(), conv(3), nn.MaxPool2d(2))
            self.more = nn.ModuleList(nn.Sequential(conv(3), nn.BatchNorm2d(3)) for _ in range(2))

        def forward(self, x):
            x = self.features(x)
            for layer in self.more:
                x = layer(x)
            return x

    graph = capture(Vgg(), (1, 3, 8, 8), torch.float32)
    assert [block.path for block in graph.blocks] == [
        "features.0", "features.1", "features.2", "features.3", "more.0", "more.1",
    ]  # fmt: skip
