"""Attention whose heads are mixed is attention whose keys go round, too."""

import math

import pytest
import torch
from attention_heads import HEADS, SHAPE, TOKENS, constant, heads, image
from running import captured
from tiled import Call, check_regions, check_tiled, noise
from torch import nn
from training_steps import check as check_training
from training_steps import grid


def by_linear(m, x):
    """Touvron et al., *Going deeper with image transformers* (CaiT), 2021."""
    scores = heads(x) @ heads(x * 2).mT
    weights = m[0](scores.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).softmax(-1)
    return image(m[1](weights.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) @ heads(x + 1))


def by_convolution(m, x):
    """Li et al., *Rethinking vision transformers* (EfficientFormerV2), 2022: a bias comes first."""
    scores = heads(x) @ heads(x * 2).mT * 0.3 + constant(HEADS, TOKENS, TOKENS)
    return image(m[1](m[0](scores).softmax(-1)) @ heads(x + 1))


def by_einsum(m, x):
    scores = torch.einsum("bhij,hg->bgij", heads(x) @ heads(x * 2).mT, m[0].weight)
    return image(torch.einsum("gh,bhij->bgij", m[1].weight, scores.softmax(-1)) @ heads(x + 1))


def scores_alone(m, x):
    mask = constant(TOKENS, TOKENS) > 0.5
    scores = m[0]((heads(x) @ heads(x * 2).mT).movedim(1, 3)).movedim(3, 1)
    return image(scores.masked_fill(mask, -math.inf).softmax(-1) @ heads(x + 1))


def weights_alone(m, x):
    scores = heads(x) @ heads(x * 2).mT
    mask = constant(TOKENS, TOKENS) > 0.5
    return image(m[0](scores.masked_fill(mask, -math.inf).softmax(-1)) @ heads(x + 1))


def linear():
    return nn.Linear(HEADS, HEADS)


def convolution():
    return nn.Conv2d(HEADS, HEADS, 1)


MIXED = {
    "by_linear": (by_linear, [linear(), linear()]),
    "by_convolution": (by_convolution, [convolution(), convolution()]),
    "by_einsum": (by_einsum, [linear(), linear()]),
    "scores_alone": (scores_alone, [linear()]),
    "weights_alone": (weights_alone, [nn.Conv2d(HEADS, HEADS, 1, bias=False)]),
}


@pytest.mark.long
@pytest.mark.parametrize("name", MIXED)
def test_keys_of_mixed_heads_go_round(name):
    function, modules = MIXED[name]
    net = Call(function, *modules)
    check_regions(net, SHAPE, most=5)
    plans = check_tiled(net, SHAPE, grids=[(2, 2), (1, 3)])
    assert not any(plan.gathered for plan in plans)
    assert all(any(e.kind == "ring" for e in plan.exchanges[2]) for plan in plans)


def test_mixing_sends_no_more_than_attention_does():
    def unmixed(m, x):
        return image((heads(x) @ heads(x * 2).mT).softmax(-1) @ heads(x + 1))

    def sent(net):
        (plan,) = check_tiled(net, SHAPE, grids=[(2, 2)], fused=[0])
        return sum(e.sent(0)[1] for e in plan.exchanges[2] if e.kind == "ring")

    assert sent(Call(by_linear, linear(), linear())) == sent(Call(unmixed, nn.Identity()))


@pytest.mark.long
@pytest.mark.parametrize("name", ["by_linear", "by_convolution"])
def test_gradients_of_mixed_heads(name):
    function, modules = MIXED[name]
    torch.manual_seed(0)
    mixed = Call(function, *modules)
    net = Call(lambda m, x: m[1](m[0](x)) / 10, nn.Conv2d(6, 6, 1), mixed).double()
    check_training(net, noise(*SHAPE), noise(*SHAPE, seed=2), [grid(1, 2)], tolerance=1e-10)


def other_sum(m, x):
    return image(m[0](heads(x) @ heads(x).mT).softmax(-1) @ heads(x))


@pytest.mark.parametrize("over", [nn.Linear(TOKENS, TOKENS), nn.Conv2d(HEADS, HEADS, 3, padding=1)])
def test_sums_over_keys_or_neighbours_are_no_mixing_of_heads(over):
    net = Call(other_sum, over).double()
    kinds = [node.op for node in captured(net, [SHAPE], torch.float64).nodes]
    assert "spnb.attention.written_out" not in kinds
    check_tiled(net, SHAPE, grids=[(1, 2)], fused=[0], allow_gather=True)
