"""Networks drawn from a grammar of control flow: an exact answer, or one line of ours."""

import warnings

import pytest
import torch
from control_flow import outcome
from torch import nn
from torch.utils.checkpoint import checkpoint

import spnb

SEEDS = range(60)


@pytest.mark.slow(but_each=6)
@pytest.mark.long
@pytest.mark.parametrize("seed", SEEDS)
def test_a_drawn_network_is_equal_or_refused_in_one_line(seed):
    outcome(seed)


@pytest.mark.long
def test_the_grammar_is_not_all_refused():
    assert [outcome(seed) for seed in range(6)].count("equal") >= 3


class Differentiating(nn.Module):
    """A checkpoint of the older kind, which warns of inputs without gradients; then a refusal."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        y = checkpoint(self.conv, x, use_reentrant=True)
        return torch.func.grad(lambda t: (t**2).sum())(y)


def test_nothing_is_said_beside_a_refusal():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with pytest.raises(spnb.CaptureError, match="differentiates in its forward"):
            spnb.plan(Differentiating(), image_size=16, batch_size=1, stages=1, tiles=4)
    assert not said
