"""Sums of gradients: over copies, over stages that share a weight, and when they begin."""

import torch
from networks import conv
from tiled import noise
from torch import nn
from training_steps import SQUARE, WHOLE, check, grid

from spnb.training.sums import Sums


def test_sums_begin_while_others_compute_where_that_is_asked_for():
    net = nn.Sequential(conv(3, 4), conv(), conv(), conv(4, 2)).double()
    x, target = noise(4, 3, 8, 8), noise(4, 2, 8, 8)
    for copies, overlapped in (
        ({"replicas": 2}, True),
        ({"times": 1}, True),
        ({"times": 1, "overlapped": False}, False),
    ):
        _, told = check(net, x, target, [SQUARE, WHOLE], **copies)
        assert all((step.overlapped_sums > 0) == overlapped for step in told), copies


class Tied(nn.Module):
    """Convolutions at the beginning and at the end that have one weight."""

    def __init__(self):
        super().__init__()
        self.first, self.between, self.last = conv(3, 3), conv(3, 3), conv(3, 3)
        self.last.weight = self.first.weight

    def forward(self, x):
        return self.last(self.between(self.first(x)).relu())


def test_a_weight_of_several_stages_is_one_weight():
    net = Tied().double()
    x = noise(2, 3, 9, 8)
    plan, _ = check(net, x, noise(2, 3, 9, 8), [SQUARE, WHOLE, WHOLE], balance=[1, 1, 1])
    (shared,) = [each for each in plan.rank_plan(0).shared if "first.weight" in each.names]
    assert list(shared.ranks) == [0, 1, 2, 3, 5]


class Woven(nn.Module):
    """Four convolutions, of which each pair of stages shares one weight."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(conv(3, 3) for _ in range(6))
        for one, other in ((0, 3), (1, 4), (2, 5)):  # of stages 0 and 1, 0 and 2, 1 and 2
            self.layers[other].weight = self.layers[one].weight

    def forward(self, x):
        for number in (0, 1, 2, 3, 5, 4):
            x = x + self.layers[number](x).tanh()
        return x


def test_sums_over_pairs_of_stages_do_not_wait_for_each_other():
    x, target = noise(1, 3, 9, 8), noise(1, 3, 9, 8)
    plan, _ = check(Woven().double(), x, target, [SQUARE, grid(1, 2), WHOLE], balance=[2, 2, 2])
    groups = {shared.names for rank in (0, 4, 6) for shared in plan.rank_plan(rank).shared}
    assert {(f"layers.{k}.weight",) for k in range(3)} <= groups


def test_what_the_memory_of_sums_held_before_does_not_matter():
    sums = Sums({name: torch.full((2,), torch.nan) for name in ("one", "other", "none")})
    sums.add("one", torch.ones(2))
    sums.add("one", torch.ones(2))
    sums.add("other", torch.ones(2))
    sums.complete(["other", "none"])
    assert [sums[name].tolist() for name in ("one", "other", "none")] == [[2, 2], [1, 1], [0, 0]]
