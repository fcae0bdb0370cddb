"""Regions, numbers and constants of a forward in training: gradients as untiled, or one line."""

import pytest
import torch
from tiled import Call, noise
from torch import nn
from torch.utils.checkpoint import checkpoint
from training_steps import check, grid

from spnb.capture.export import capture
from spnb.errors import CaptureError

SHAPE = (2, 3, 9, 11)


def conv(inputs=3, outputs=3):
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def coordinates(layers, x):
    rows, columns = (torch.linspace(-1, 1, n, dtype=x.dtype) for n in x.shape[2:])
    grids = torch.meshgrid(rows, columns, indexing="ij")
    return layers[1](torch.cat([layers[0](x), *(g.expand(len(x), 1, -1, -1) for g in grids)], 1))


def without_autocast(layers, x):
    with torch.autocast("cpu", enabled=False):
        return layers[0](x)


def chosen(layers, x):
    y = layers[0](x)
    return layers[0](torch.cond(y.amin() > 0, torch.log, lambda y: y * y, (y,)))


TRAINED = {
    "coordinates of a list": (coordinates, [conv(), conv(5)]),
    "autocast that is off": (without_autocast, [conv()]),
    "checkpoint": (lambda m, x: checkpoint(m[0], m[0](x), use_reentrant=False), [conv()]),
    "reentrant checkpoint": (lambda m, x: checkpoint(m[0], m[0](x), use_reentrant=True), [conv()]),
    "a number": (lambda m, x: m[0](x) / (1 + x.abs().max().item()), [conv()]),
    "a branch": (chosen, [conv()]),
    "vmap": (lambda m, x: torch.vmap(lambda image: image.sin())(m[0](x)), [conv()]),
}


@pytest.mark.parametrize(("forward", "layers"), TRAINED.values(), ids=TRAINED)
def test_gradients_are_those_of_the_untiled_network(forward, layers):
    torch.manual_seed(0)
    check(Call(forward, *layers).double(), noise(*SHAPE), noise(*SHAPE, seed=2), [grid(2, 2)])


REFUSED = {
    "a weight in a branch": (
        lambda m, x: torch.cond(x.mean() > 0, lambda x: m[0](x), lambda x: 2 * x, (x,)),
        r"\(cond\) has the weight layers.0.(weight|bias) in a branch",
    ),
    "a loop": (
        lambda m, x: torch.while_loop(
            lambda n, x: n < 2, lambda n, x: (n + 1, x + 1), (torch.zeros(()), m[0](x))
        )[1],
        r"\(while_loop\) is a loop that spnb runs but does not train|cannot run or be captured",
    ),
}


@pytest.mark.parametrize(("forward", "message"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_exact_gradient_is_refused(forward, message):
    with pytest.raises(CaptureError, match=message):
        capture(Call(forward, conv()), SHAPE, torch.float64, training=True)
