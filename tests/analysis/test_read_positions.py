"""Where positions of an output lie in the image."""

import pytest
from tiled import Call
from torch import nn

import spnb
from spnb.analysis.positions import Alignment, alignment


def conv(stride=1, padding=1, kernel=3):
    return nn.Conv2d(3, 3, kernel, stride, padding)


CASES = {
    "same": (conv(), 64, (1, 0)),
    "stride": (conv(2), 64, (2, 0)),
    "stride of an odd size": (conv(2), 65, (2, 0)),
    # 67 is 7 times 9 and a rest, but the pace of what positions read is 8.
    "three strides": (nn.Sequential(conv(2), conv(2), conv(2)), 67, (8, 0)),
    "patches": (conv(4, 0, 4), 66, (4, 0)),
    "no padding": (nn.Sequential(conv(1, 0), conv(1, 0)), 64, (1, 2)),
    "enlarged": (nn.Sequential(conv(), nn.Upsample(scale_factor=2)), 64, (0.5, 0)),
    "down and up": (nn.Sequential(conv(2), conv(2), nn.Upsample(scale_factor=2)), 200, (2, 0)),
    "cut out": (Call(lambda x: x[..., 16:48, 16:48] * 2), 64, (1, 16)),
    "cut out at an edge": (Call(lambda x: x[..., 20:, 20:] * 2), 64, (1, 20)),
    "statistics of the whole": (nn.Sequential(conv(2), nn.GroupNorm(3, 3)), 64, (2, 0)),
    "stride after a cut": (nn.Sequential(conv(1, 0), conv(2, 0)), 64, None),
    "scores": (nn.Sequential(conv(), nn.AdaptiveAvgPool2d(1), nn.Flatten()), 64, None),
}


@pytest.mark.parametrize("name", CASES)
def test_the_grid_of_an_output(name):
    net, size, expected = CASES[name]
    job = spnb.Job(net, image_size=size, batch_size=1, split_size=1, num_spatial_parts=2)
    graph = spnb.plan(job).graph
    (value,) = graph.outputs
    found = alignment(graph, value)
    assert found == (None if expected is None else (Alignment(*expected),) * 2)
