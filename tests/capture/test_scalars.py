"""Numbers that a forward reads from its tensors: followed as merged figures, or refused by name."""

import math

import pytest
import torch
from tiled import Call, check
from torch import nn

from spnb.capture.export import capture
from spnb.errors import CaptureError

IMAGE = (2, 3, 9, 11)


def conv():
    return nn.Conv2d(3, 3, 3, padding=1)


FOLLOWED = {
    "a scale": lambda m, x: m[0](x) / x.max().item(),
    "arithmetic": lambda m, x: m[0](x) * (2 * x.mean().item() - 1) ** 2,
    "a root": lambda m, x: m[0](x) + x.square().mean().item() ** 0.5,
    "two": lambda m, x: (m[0](x) - x.amin().item()) / (x.amax().item() - x.amin().item() + 1e-3),
    "a bound": lambda m, x: m[0](x).clamp(max=x.mean().item()),
    "a comparison": lambda m, x: m[0](x) > x.mean().item(),
    "a fill": lambda m, x: m[0](x) + torch.full((1, 3, 1, 1), x.amax().item(), dtype=x.dtype),
    "a mask": lambda m, x: m[0](x).masked_fill(x > 0, x.amin().item()),
    "a power": lambda m, x: m[0](x).abs() ** x.amax().item(),
    "a new tensor": lambda m, x: m[0](x) * torch.tensor(x.mean().item(), dtype=x.dtype),
    "a weight": lambda m, x: m[0](x) * m[0].bias.sum().item(),
    "tolist": lambda m, x: m[0](x) * x.mean((0, 2, 3)).tolist()[1],
}


@pytest.mark.parametrize("forward", FOLLOWED.values(), ids=FOLLOWED)
def test_a_number_is_followed(forward):
    check(Call(forward, conv()), IMAGE)


REFUSED = {
    "a slope": (
        lambda x: nn.functional.elu(x, x.amax().item()),
        r"\(elu\) takes a number .* alpha",
    ),
    "a size": (
        lambda x: x[..., : int(x.amax().item())],
        "size depends on the values|by the values",
    ),
    "a decision": (lambda x: x if x.amax().item() > 0 else -x, "decides by the values of a tensor"),
    "float()": (lambda x: x * float(x.amax()), r"by the values of a tensor .*float\(\)"),
    "math": (lambda x: x + math.sqrt(x.amax().item()), "by the values of a tensor .*math"),
    "a result": (lambda x: (x, x.amax().item()), "returns a number that it reads from a tensor"),
    "a choice": (lambda x: x * max(x.amax().item(), 1.0), "decides by the values of a tensor"),
}


@pytest.mark.parametrize(("forward", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_followed_is_refused(forward, message):
    with pytest.raises(CaptureError, match=message) as caught:
        capture(Call(forward), IMAGE, torch.float64)
    assert "\n" not in str(caught.value)
