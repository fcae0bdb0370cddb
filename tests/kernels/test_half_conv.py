"""Half precision where the CPU has no convolution for it."""

import pytest
import torch

import spnb
from spnb.driver.in_process import InProcess
from spnb.kernels import half_conv


@pytest.fixture
def no_half_convolutions(monkeypatch):
    """A machine of which oneDNN has none, whatever this one is."""
    seen = []

    def convolving(
        self, func, types, args=(), kwargs=None, usual=half_conv._InSingle.__torch_dispatch__
    ):
        if func.overloadpacket in half_conv.CONVOLUTIONS:
            seen.append(args[0].dtype)
        return usual(self, func, types, args, kwargs)

    monkeypatch.setattr(half_conv, "convolves", lambda dtype: dtype.itemsize != 2)
    monkeypatch.setattr(half_conv._InSingle, "__torch_dispatch__", convolving)
    return seen


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", [torch.nn.Conv2d, torch.nn.ConvTranspose2d])
def test_the_result_is_that_of_fp32_rounded(no_half_convolutions, dtype, kind):
    layer, x = kind(3, 4, 3).to(dtype), torch.randn(2, 3, 9, 8).to(dtype)
    with torch.inference_mode():
        with half_conv.convolving({dtype}):
            found = layer(x)
        assert torch.equal(found, layer.float()(x.float()).to(dtype))
    assert no_half_convolutions == [dtype]


def test_tiles_and_the_untiled_run_both_compute_so(no_half_convolutions):
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.Conv2d(4, 2, 5))
    job = spnb.Job(
        net, image_size=24, batch_size=1, split_size=1, num_spatial_parts=4, precision="fp_16"
    )
    result = InProcess(spnb.plan(job)).infer()
    assert len(no_half_convolutions) == 4 * 2
    assert result.check().passed
    assert len(no_half_convolutions) == 5 * 2


def test_other_precisions_are_left_alone():
    assert half_conv.convolves(torch.float32) and half_conv.convolves(torch.float64)
