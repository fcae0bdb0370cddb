"""Constants that all images of a batch share, in micro-batches."""

import pytest
import torch
from tiled import Call, check_tiled
from torch import nn
from torch.nn import functional as F

from spnb.capture.export import capture
from spnb.errors import PlanError

IMAGE = (4, 3, 9, 11)


def coordinates(x):
    rows, columns = (torch.linspace(-1, 1, n, dtype=x.dtype) for n in x.shape[2:])
    return torch.meshgrid(rows, columns, indexing="ij")


def stacked(x):
    return torch.stack(coordinates(x)[::-1], -1)


def affine(x):
    theta = torch.tensor([[0.9, 0.1, 0.0], [0.0, 1.0, 0.1]], dtype=x.dtype)
    return F.affine_grid(theta.repeat(x.shape[0], 1, 1), list(x.shape), align_corners=False)


GRIDS = {
    "expanded": lambda x: (stacked(x) * 0.9).expand(x.shape[0], -1, -1, -1),
    "repeated": lambda x: stacked(x)[None].repeat(x.shape[0], 1, 1, 1) + 0.1,
    "affine": affine,
}


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("parts", [1, 2, 3])
def test_a_constant_grid_is_sampled_in_micro_batches(grid, parts):
    net = Call(
        lambda m, x: F.grid_sample(m[0](x), grid(x), align_corners=False), nn.Conv2d(3, 2, 1)
    )
    check_tiled(net, IMAGE, grids=[(1, 2)], parts=parts, allow_gather=True)


def test_coordinates_are_joined_in_micro_batches():
    def forward(layers, x):
        more = [c.expand(x.shape[0], 1, -1, -1) for c in coordinates(x)]
        return layers[0](torch.cat([x, *more], 1)) + more[0]

    check_tiled(Call(forward, nn.Conv2d(5, 3, 3, padding=1)), IMAGE, parts=2)


@pytest.mark.parametrize(
    "forward",
    [
        lambda x: x + torch.arange(float(x.shape[0])).view(-1, 1, 1, 1),
        lambda x: F.grid_sample(
            x, GRIDS["expanded"](x) * torch.arange(float(x.shape[0])).view(-1, 1, 1, 1)
        ),
    ],
)
def test_constants_that_differ_from_image_to_image_are_refused_in_micro_batches(forward):
    check_tiled(Call(forward), IMAGE, grids=[(1, 2)], allow_gather=True)
    with pytest.raises(PlanError, match="treats the 4 images of a batch independently"):
        check_tiled(Call(forward), IMAGE, grids=[(1, 2)], parts=2, allow_gather=True)


@pytest.mark.parametrize(
    ("constant", "alike"),
    [
        (lambda n: torch.zeros(n, 3), True),
        (lambda n: torch.ones(1, 3).expand(n, -1) * 2 + torch.arange(3.0), True),
        (lambda n: torch.ones(3).repeat(n, 1).view(n, 3, 1).permute(0, 2, 1)[:, 0], True),
        (lambda n: torch.arange(3.0 * n).view(n, 3), False),
        (lambda n: torch.ones(3, n).transpose(0, 1) * torch.arange(float(n)).view(n, 1), False),
        (lambda n: torch.cat([torch.zeros(1, 3), torch.ones(n - 1, 3)]), False),
        (lambda n: torch.zeros(n, 3).cumsum(0) + 1, False),
    ],
)
def test_what_is_known_to_be_alike(constant, alike):
    net = Call(lambda x: x + constant(x.shape[0])[:, :, None, None])
    weight = capture(net, IMAGE, torch.float32).nodes[-1].weights[0]
    assert weight.alike == alike
