"""A network keeps its own floating types, unless a precision is named."""

import pytest
import torch
from torch import nn

import spnb
from spnb.errors import OptionError

TYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def job(net, **options):
    given = {"image_size": 12, "batch_size": 1, "split_size": 1, "num_spatial_parts": 4}
    return spnb.Job(net, **given | options)


def ran(net, image, **options):
    return spnb.InProcess(spnb.plan(job(net, **options)), progress=False).infer(image)


@pytest.fixture
def default_float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("dtype", TYPES)
def test_a_network_runs_in_its_own_type(dtype):
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 1)).to(dtype)
    image = torch.rand(1, 1, 12, 12)
    result = ran(net, image.to(dtype))
    assert result.output.dtype == dtype
    assert result.check().passed
    with torch.no_grad():
        expected = net(image.to(dtype))
    tolerance = {torch.float64: 1e-15, torch.float32: 1e-6}.get(dtype, 1e-2)
    assert (result.output.double() - expected.double()).abs().max() <= tolerance


def test_a_precision_changes_the_type():
    net = nn.Conv2d(1, 1, 3, padding=1).double()
    assert ran(net, torch.rand(1, 1, 12, 12), precision="fp32").output.dtype == torch.float32
    assert net.weight.dtype == torch.float64


def test_the_default_type_is_that_of_new_networks(default_float64):
    class Ramp(nn.Conv2d):
        def forward(self, x):
            steps = torch.arange(x.shape[3]) / torch.linspace(1, 3, 1)
            return super().forward(x) + steps * torch.ones(1) + torch.ones(12, dtype=int) / 3

    net, image = Ramp(1, 1, 3, padding=1), torch.rand(1, 1, 12, 12).float().double()
    with torch.no_grad():
        expected = net(image)
    found = ran(net, image).output
    assert found.dtype == torch.float64
    assert (found - expected).abs().max() <= 1e-14
    assert job("resnet20_v1").dtype == torch.float64


class Mixed(nn.Module):
    """A body in half precision between layers in single."""

    def __init__(self):
        super().__init__()
        self.head, self.tail = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1)
        self.body = nn.Conv2d(4, 4, 3, padding=1).bfloat16()

    def forward(self, x):
        return self.tail(self.body(self.head(x).relu().bfloat16()).relu().float())


def test_a_network_of_several_types():
    net, image = Mixed(), torch.rand(1, 1, 12, 12)
    result = ran(net, image)
    with torch.no_grad():
        expected = net(image)
    assert result.output.dtype == torch.float32
    assert result.check().passed
    assert torch.allclose(result.output, expected, atol=1e-2)
    with pytest.raises(OptionError, match=r"several types \(bfloat16, float32\)"):
        spnb.plan(job(net), training=True)


def test_one_type_for_all_is_a_precision():
    class Same(Mixed):
        def forward(self, x):
            return self.tail(self.body(self.head(x)))

    assert ran(Same(), torch.rand(1, 1, 12, 12), precision="fp64").check().passed
