"""Gradients of operators that tiles compute by rules of their own, or in parts."""

import pytest
import torch
from tiled import Call, noise
from torch import nn
from torch.nn import functional as F
from training_steps import check, grid

from spnb.capture.export import capture

SHAPE = (2, 4, 12, 10)


def masked(layers, x):
    y = layers[0](x)
    y[y < 0] = 0
    return layers[0](y)


def gram(layers, x):
    flat = layers[0](x).flatten(2)
    return ((flat @ flat.transpose(1, 2)).softmax(-1) @ flat).view(x.shape)


TRAINED = {
    "masked": masked,
    "gram": gram,
    "cosine_similarity": lambda m, x: m[0](x) * F.cosine_similarity(m[0](x), x, 1)[:, None],
    "hypot": lambda m, x: torch.hypot(m[0](x), m[0](x) + 1),
    "std_mean": lambda m, x: m[0](x) / (1 + torch.std_mean(m[0](x), (2, 3), keepdim=True)[0]),
    "gather": lambda m, x: m[0](x).gather(1, x.argsort(1)),
    "diff": lambda m, x: m[0](x).diff(dim=3),
    "repeat_interleave": lambda m, x: m[0](x).repeat_interleave(2, 3),
    "written weight": lambda m, x: m[0](x * m[0].weight.sum().detach()),
}


@pytest.mark.long
@pytest.mark.parametrize("operator", TRAINED)
def test_gradients_are_those_of_the_untiled_network(operator):
    torch.manual_seed(0)
    net = Call(TRAINED[operator], nn.Conv2d(4, 4, 3, padding=1)).double()
    with torch.no_grad():
        like = net(noise(*SHAPE))
    check(net, noise(*SHAPE), noise(*like.shape, seed=2), [grid(2, 2)])


def written(x):
    y = x.clone()
    y[:, 0, 1:-1] = 0.5
    y[:, :2, :, ::2] *= 2
    y[:, 3] = y[:, :1, :1].mean((1, 2, 3), keepdim=True)[:, 0]
    return y


BESIDE_NORMS = {
    "rot90": lambda x: x.rot90(1, (2, 3)) * 2,
    "gradient": lambda x: torch.gradient(x, dim=3)[0],
    "quantile": lambda x: x.quantile(0.3, 1, keepdim=True) + x,
    "written": written,
    "vmap": lambda x: torch.vmap(lambda image: image * 2)(x),
}


@pytest.mark.slow(but_each=2)
@pytest.mark.parametrize("operator", BESIDE_NORMS)
def test_calls_beside_batch_norms_are_taken_apart(operator):
    norm = nn.BatchNorm2d(4)
    layers = nn.Conv2d(4, 4, 3, padding=1), norm, norm, Call(BESIDE_NORMS[operator])
    net = nn.Sequential(*layers).double()
    with torch.no_grad():
        like = net(noise(*SHAPE))
    check(net, noise(*SHAPE), noise(*like.shape, seed=2), [grid(2, 2)], steps=1)
    assert int(norm.num_batches_tracked) == 2  # of the pass above: capture counts nothing


def test_a_pass_counts_the_batches_of_norms_that_were_kept():
    norm = nn.BatchNorm2d(4)
    graph = capture(nn.Sequential(norm, norm, Call(written)), SHAPE, torch.float64, training=True)
    assert set(graph.counted.values()) == {2}
