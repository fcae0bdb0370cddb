"""What cannot be captured: one line of ours, nothing of PyTorch's before it, and a way out."""

import threading
from dataclasses import dataclass

import pytest
import torch
from tiled import Call
from torch import nn

import spnb
from spnb.capture.export import capture
from spnb.errors import CaptureError


class Ladder(nn.Module):
    """A U-Net of as many levels as are asked for."""

    def __init__(self, levels, axes=2):
        super().__init__()
        convs = {1: (nn.Conv1d, nn.ConvTranspose1d), 2: (nn.Conv2d, nn.ConvTranspose2d)}
        convs[3] = (nn.Conv3d, nn.ConvTranspose3d)
        down, up = convs[axes]
        self.down = nn.ModuleList(down(3, 3, 2, 2) for _ in range(levels))
        self.up = nn.ModuleList(up(3, 3, 2, 2) for _ in range(levels))

    def forward(self, x):
        passed = []
        for layer in self.down:
            passed.append(x)
            x = layer(x)
        for layer, beside in zip(self.up, reversed(passed)):
            x = torch.cat([layer(x), beside], 1)[:, :3]
        return x


@dataclass
class Output:
    y: torch.Tensor


def fixed(x):
    return x + torch.zeros(1, 3, 224, 224)


SIZES = {
    "two levels": (Ladder(2), (97, 131), "96×132"),
    "four levels": (Ladder(4), (97, 131), "96×128"),
    "1-D": (Ladder(3, axes=1), (45,), "48"),
    "3-D": (Ladder(2, axes=3), (9, 14, 16), "8×16×16"),
    "too small": (nn.Sequential(nn.Conv2d(3, 3, 7), nn.Conv2d(3, 3, 7)), (8, 8), "14×14"),
    "fixed": (Call(fixed), (200, 190), "224×224"),
}


@pytest.mark.parametrize(("net", "size", "nearest"), SIZES.values(), ids=SIZES)
def test_the_nearest_size_that_works_is_named(capfd, net, size, nearest):
    with pytest.raises(CaptureError, match=f"the nearest image size that works is {nearest}$") as e:
        capture(net, (1, 3, *size), torch.float32)
    assert "\n" not in str(e.value)
    assert capfd.readouterr() == ("", "")
    capture(net, (1, 3, *map(int, nearest.split("×"))), torch.float32)


REFUSED = {
    "nothing": (lambda x: None, "returns no tensor"),
    "numbers": (lambda x: (1, "a", x.shape[0]), "returns no tensor"),
    "a class": (lambda x: Output(x), "returns a .*Output, of which PyTorch does not know"),
    "a generator": (lambda x: (k for k in [x]), "returns a generator, of which"),
    "sparse": (lambda x: x.to_sparse().sum(), r"\(to_sparse\) gives a sparse tensor"),
    "an error": (lambda x: x / (1 // 0), "cannot run or be captured .* by zero"),
    "recursion": (lambda x: (lambda f: f(f))(lambda f: f(f)), "maximum recursion depth"),
    "NumPy": (lambda x: torch.from_numpy(x.numpy()), "cannot run or be captured"),
    "an empty error": (lambda x: raised(ValueError()), r"ValueError\(\)"),
    "torch.func.grad": (
        lambda x: torch.func.grad(lambda x: x.square().sum())(x),
        "differentiates in its forward",
    ),
    "torch.func.jvp": (
        lambda x: torch.func.jvp(torch.sin, (x,), (x,))[1],
        "differentiates in its forward",
    ),
    "autograd": (
        lambda x: torch.autograd.grad(x.requires_grad_().square().sum(), x)[0],
        "cannot run or be captured|out of sight",
    ),
    "vmap over noise": (
        lambda x: torch.vmap(lambda i: i + torch.rand(1), randomness="different")(x),
        "random numbers|cannot",
    ),
    "branches of two sizes": (
        lambda x: torch.cond(x.mean() > 0, lambda x: x[:, :2] * 1, lambda x: x * 2, (x,)),
        r"\(cond\) has branches whose results differ in size",
    ),
}


def raised(error):
    raise error


@pytest.mark.parametrize(("forward", "message"), REFUSED.values(), ids=REFUSED)
def test_a_refusal_is_one_line_and_leaves_nothing_behind(capfd, forward, message):
    with pytest.raises(CaptureError, match=message) as caught:
        capture(Call(forward), (2, 3, 8, 8), torch.float32)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    after = Call(lambda x: torch.cond(x.mean() > 0, torch.sin, torch.cos, (x,)))
    assert capture(after, (2, 3, 8, 8), torch.float32).nodes  # no transform is still entered


class Holder(nn.Conv2d):
    def __init__(self, held):
        super().__init__(3, 3, 1)
        self.held = held


@pytest.mark.parametrize("held", [(k for k in [1]), threading.Lock()], ids=["generator", "lock"])
def test_a_module_that_cannot_be_copied_is_refused(held):
    with pytest.raises(CaptureError, match="Holder cannot be copied without its weights"):
        capture(Holder(held), (1, 3, 8, 8), torch.float32)


def test_an_output_without_elements_is_equal():
    net = Call(lambda m, x: m[0](x)[:, :0], nn.Conv2d(3, 3, 3))
    job = spnb.Job(net, image_size=12, batch_size=1, split_size=1, num_spatial_parts=4)
    assert spnb.InProcess(spnb.plan(job), progress=False).infer().check().passed


def test_an_operator_that_asks_for_values_is_named():
    with pytest.raises(CaptureError, match=r"decides by the values of a tensor .*aten\.equal"):
        capture(Call(lambda x: torch.cov(x.flatten(2)[0])), (1, 3, 8, 8), torch.float32)
