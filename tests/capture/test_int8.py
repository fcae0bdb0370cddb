"""Networks in int8: rounded by PyTorch's own flow, and equal to the last bit on any tiles."""

import numpy as np
import pytest
import torch
from torch import nn

import spnb
from spnb.capture.int8.flow import quantized
from spnb.errors import OptionError, PlanError, RankError
from spnb.kernels import int8
from spnb.kernels.int8 import Int8Convolution

SIZE = (37, 45)


class Odd(nn.Module):
    """Residuals, a norm after no convolution, a layer called twice, pooling, a gate, resizing."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8))
        self.relu = nn.ReLU()
        self.first = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=2)
        self.second = nn.Conv2d(8, 8, 1)
        self.norm = nn.BatchNorm2d(8)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Sigmoid())
        self.up = nn.ConvTranspose2d(8, 4, 2, 2)
        self.head = nn.Conv2d(12, 2, 3, padding=1)

    def forward(self, x):
        x = self.relu(self.stem(x))
        x = self.relu(x + self.second(self.relu(self.first(x))))
        pooled = self.pool(self.norm(x))
        pooled = pooled * self.gate(pooled)
        up = nn.functional.interpolate(self.up(pooled), size=x.shape[2:], mode="bilinear")
        return self.head(torch.cat([self.relu(x), up], 1))


def smooth(count, size, seed=0):
    """Images whose values are spread evenly, with some below zero."""
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    waves = [np.sin(x / (2 + k + seed)) + np.cos(y / (3 + k)) for k in range(3 * count)]
    return (0.5 * np.stack(waves)).reshape(count, 3, *size).astype(np.float32)


def network(kind, seed=0):
    torch.manual_seed(seed)
    net = kind().eval()
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.2)
            layer.running_var.uniform_(0.5, 2)
    return net


def job(net, **options):
    given = {"image_size": SIZE, "batch_size": 1, "stages": 1} | options
    return spnb.Job(net, precision="int8", calibration=[smooth(2, (32, 40))], force=True, **given)


@pytest.mark.parametrize(
    "split",
    [
        {"tiles": 4},
        {"tiles": 6, "slice_method": "3x2", "fuse": 3},
        {"tiles": 2, "stages": 2, "parts": 2, "batch_size": 3},
        {"tiles": 2, "patches": 4},
    ],
)
def test_tiled_is_untiled_to_the_last_bit(split):
    planned = spnb.plan(job(network(Odd), **split))
    images = smooth(split.get("batch_size", 1), SIZE, seed=3)
    result = spnb.InProcess(planned, progress=False).infer(images)
    check = result.check()
    assert check.max_abs_error == 0 and check.tolerance == 0 and check.output_scale > 0


def test_a_rounded_network_is_near_the_network():
    net, images = network(Odd), smooth(1, SIZE)
    result = spnb.InProcess(spnb.plan(job(net, tiles=4)), progress=False).infer(images)
    with torch.no_grad():
        exact = net(torch.from_numpy(images))
    error = (result.output - exact).abs().max() / exact.abs().max()
    assert 0 < error < 0.1


def test_convolutions_are_in_whole_numbers():
    planned = spnb.plan(job(network(Odd), tiles=4))
    kinds = [node.kind for node in planned.graph.nodes]
    assert kinds.count("conv_int8") == 5 and "conv2d" not in kinds
    types = {node.name: node.dtype for node in planned.graph.nodes}
    read = [n.operands[0] for n in planned.graph.nodes if n.kind == "conv_int8"]
    assert all(types[value] == torch.uint8 for value in read)  # a quarter of the bytes of a halo


def test_other_weights_are_rounded_anew():
    net = network(Odd)
    asked, images = job(net, tiles=4), smooth(1, SIZE)
    before = spnb.InProcess(spnb.plan(asked), progress=False).infer(images)
    with torch.no_grad():
        net.first.weight.mul_(-2)
    after = spnb.InProcess(spnb.plan(asked), progress=False).infer(images)
    assert after.check().passed
    assert not torch.equal(before.output, after.output)


def test_a_plan_of_other_weights_is_outdated():
    net = network(Odd)
    session = spnb.InProcess(spnb.plan(job(net, tiles=4)), progress=False)
    session.infer(smooth(1, SIZE))
    with torch.no_grad():
        net.first.weight.mul_(-2)
    with pytest.raises(PlanError, match="load a new plan"):
        session.infer(smooth(1, SIZE))


def test_a_nan_is_refused_by_name():
    image = smooth(1, SIZE)
    image[0, 0, 5, 7] = np.nan
    with pytest.raises(RankError, match="NaN, for which int8 has no number"):
        spnb.InProcess(spnb.plan(job(network(Odd), tiles=4)), progress=False).infer(image)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"precision": "int8"}, "give some with calibration"),
        ({"calibration": "a.npy"}, "calibration is for precision int8"),
        ({"precision": "int8", "calibration": "a.npy", "device": "cuda"}, "device is cuda"),
        ({"precision": "int8", "calibration": []}, "calibration names no image"),
        ({"precision": "int8", "calibration": [3]}, "calibration has 3 in it"),
    ],
)
def test_refused_options(options, text):
    with pytest.raises(OptionError, match=text):
        spnb.Job("resnet20_v1", **options)


def test_refused_images_and_training():
    asked = {"precision": "int8", "force": True, "image_size": 32}
    with pytest.raises(OptionError, match=r"calibration image: .*a\.npy"):
        spnb.plan(spnb.Job("resnet20_v1", calibration="a.npy", **asked))
    with pytest.raises(OptionError, match="int8 is for inference"):
        spnb.plan(spnb.Job("resnet20_v1", calibration=smooth(1, SIZE), **asked), training=True)


def test_a_network_without_convolutions_of_images_is_refused(monkeypatch):
    monkeypatch.setattr("spnb.job.plan_refusals.time_in_int8", lambda: 0.3)
    volumes = np.random.default_rng(0).random((1, 3, 8, 8, 8), dtype=np.float32)
    net = nn.Sequential(nn.Conv3d(3, 8, 3), nn.ReLU(), nn.Conv3d(8, 2, 3)).eval()
    asked = spnb.Job(
        net, precision="int8", calibration=volumes, image_size=(12, 12, 12), stages=1, tiles=2
    )
    with pytest.raises(
        OptionError, match=r"times as long as fp32 here.* calls of Sequential are none"
    ):
        spnb.plan(asked)
    forced = asked.replace(force=True, batch_size=1)
    image = np.random.default_rng(1).random((1, 3, 12, 12, 12), dtype=np.float32)
    assert spnb.InProcess(spnb.plan(forced), progress=False).infer(image).check().passed


def test_where_int8_is_slower_it_is_refused_unless_forced(monkeypatch):
    monkeypatch.setattr("spnb.job.plan_refusals.time_in_int8", lambda: 1.5)
    asked = spnb.Job(
        network(Odd), precision="int8", calibration=smooth(1, SIZE), image_size=SIZE, tiles=4
    )
    with pytest.raises(
        OptionError, match=r"a convolution of 8-bit numbers takes 1\.5 times as long.*force"
    ):
        spnb.plan(asked)
    assert spnb.plan(asked.replace(force=True)).num_ranks == 5


@pytest.mark.parametrize("reduced", [True, False])
def test_the_networks_own_convolutions_are_those_of_the_flow(reduced):
    """What the lowered network gives is what PyTorch's own calls give, but for rounding."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3, stride=2)).eval()
    image = torch.from_numpy(smooth(1, SIZE))
    if not reduced and not int8.has_instructions():
        pytest.skip("on this CPU, sums of two products of 8 bits overflow")
    found = quantized(net, [image], reduced)(image)
    assert (found - net(image)).abs().max() < 0.05 * net(image).abs().max()


@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_kernel_against_sums_in_fp64(added, scale):
    if added and scale is None:
        pytest.skip("what is not rounded is not added to")
    torch.manual_seed(2)
    x = torch.randint(0, 128, (2, 8, 9, 11), dtype=torch.uint8)
    weight = torch.randint(-127, 128, (6, 4, 3, 3), dtype=torch.int8)
    scales, bias = torch.rand(6) * 0.01, torch.randn(6)
    kernel = Int8Convolution((2, 1), (1, 2), (1, 2), 2, 0.02, 31, 0.1, 7, True, scale, 12, 127)
    expected = kernel.bind(weight, scales, bias)
    if not int8.computes(x.shape, weight.shape):
        pytest.skip("oneDNN has no such kernel here")
    call = kernel.bind(kernel.pack(weight, scales, x.shape), scales, bias)
    given = (x, torch.randint(0, 128, expected(x).shape, dtype=torch.uint8)) if added else (x,)
    found, wanted = call(*given).float(), expected(*given).float()
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= (1 if scale else 1e-4)  # a tie may round either way
