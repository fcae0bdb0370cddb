"""Attention whose weights are mixed with known weights is attention whose keys go round, too."""

import pytest
import torch
from attention_heads import HEADS, SHAPE, TOKENS, constant, heads, image
from tiled import Call, check_regions, check_tiled, noise
from torch import nn
from training_steps import check as check_training
from training_steps import grid


def weights(x):
    return (heads(x) @ heads(x * 2).mT).softmax(-1)


def between_content_and_position(m, x):
    """d'Ascoli et al., *ConViT*, 2021."""
    gate = m[0].weight.view(1, -1, 1, 1).sigmoid()
    both = (1 - gate) * weights(x) + gate * constant(HEADS, TOKENS, TOKENS).softmax(-1)
    both /= both.sum(-1).unsqueeze(-1)
    return image(both @ heads(x + 1))


def divided_by_kept_sum(m, x):
    both = weights(x) + constant(TOKENS, TOKENS).exp()
    return image(both / both.sum(-1, keepdim=True) @ heads(x + 1))


def scaled(m, x):
    return image(weights(x) * m[0].weight.view(-1, 1, 1) @ heads(x + 1))


def shifted(m, x):
    return image((weights(x) + constant(1, TOKENS, TOKENS)) @ heads(x + 1))


GATED = [between_content_and_position, divided_by_kept_sum, scaled, shifted]


@pytest.mark.long
@pytest.mark.parametrize("function", GATED)
def test_keys_of_gated_weights_go_round(function):
    net = Call(function, nn.PReLU(HEADS))
    check_regions(net, SHAPE, most=5)
    plans = check_tiled(net, SHAPE, grids=[(2, 2), (1, 3)])
    assert not any(plan.gathered for plan in plans)
    assert all(any(e.kind == "ring" for e in plan.exchanges[2]) for plan in plans)


@pytest.mark.long
def test_the_gradient_of_a_gate():
    torch.manual_seed(0)
    gated = Call(between_content_and_position, nn.PReLU(HEADS))
    net = Call(lambda m, x: m[1](m[0](x)) / 10, nn.Conv2d(6, 6, 1), gated).double()
    check_training(net, noise(*SHAPE), noise(*SHAPE, seed=2), [grid(1, 2)], tolerance=1e-10)


def summed_over_queries(x):
    both = weights(x) + constant(TOKENS, TOKENS).exp()
    return image(both / both.sum(-2, keepdim=True) @ heads(x + 1))


def read_once_more(x):
    both = weights(x) + constant(TOKENS, TOKENS).exp()
    return image(both / both.sum(-1, keepdim=True) @ heads(x + 1)), both.mean(1)


@pytest.mark.parametrize("function", [summed_over_queries, read_once_more])
def test_what_is_no_gate_is_still_exact(function):
    plans = check_tiled(Call(function), SHAPE, grids=[(1, 2)], fused=[0])
    kinds = {e.kind for plan in plans for e in plan.exchanges[2]}
    assert "ring" not in kinds  # each tile has the weights of its queries, which are larger
