"""Training in patches: equal to the untiled network, with the values of one patch in memory."""

import copy

import pytest
from hypothesis import assume, given, note, settings
from hypothesis import strategies as st
from networks import Residual, chains, conv
from random_plans import RANDOM_NETWORKS, few_and_many
from tiled import noise
from torch import nn
from training_steps import check, grid

from spnb.errors import CaptureError, PlanError
from spnb.ir.tiling import Tiling
from spnb.training.tapes import value_store

IN_PATCHES = {"patches_exchange": True}


class Norms(nn.Module):
    """Group norm, batch norm, squeeze and excitation, and a head of the whole image."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            conv(), nn.GroupNorm(2, 4), nn.ReLU(), conv(), nn.BatchNorm2d(4), nn.ReLU()
        )
        self.weighs = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1), nn.Sigmoid())
        self.block = Residual(conv(), nn.ReLU(), conv())
        self.head = nn.Sequential(nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, x):
        x = self.body(x)
        return self.head(self.block(x * self.weighs(x)))


@pytest.mark.slow(but_each=2)
@pytest.mark.parametrize("tiles", [(1, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("fused", [0, 100])
def test_figures_of_the_image_go_through_all_patches(tiles, fused, monkeypatch):
    monkeypatch.setattr(value_store, "SMALLEST", 256)  # everything goes to the disk
    net, x = Norms().double(), noise(2, 4, 24, 20)
    check(net, x, noise(2, 4), [grid(*tiles)], fused=fused, patches=(2, 2), **IN_PATCHES)


@pytest.mark.long
@pytest.mark.parametrize("schedule", ["1f1b", "gpipe"])
def test_stages_and_micro_batches(schedule):
    net = nn.Sequential(conv(), nn.BatchNorm2d(4), nn.ReLU(), conv(), nn.BatchNorm2d(4), conv(4, 2))
    options = {"schedule": schedule, "patches": (1, 3), **IN_PATCHES}
    x, target = noise(4, 4, 17, 22), noise(4, 2, 17, 22)
    check(net.double(), x, target, [grid(2, 1), grid(1, 1)], 2, **options)


@pytest.mark.long
@few_and_many(8)
def test_random_networks(examples):
    @settings(RANDOM_NETWORKS, max_examples=examples)
    @given(data=st.data(), axes=st.sampled_from([1, 2, 2, 3]))
    def check_one(data, axes):
        net = data.draw(chains(axes)).body.double()  # its dense output: training takes one
        assume(any(p.requires_grad for p in net.parameters()))
        size = [data.draw(st.integers(12, {1: 60, 2: 24, 3: 12}[axes])) for _ in range(axes)]
        tiles, patches = ([data.draw(st.integers(1, 3)) for _ in range(axes)] for _ in range(2))
        x, fused = noise(2, 2, *size), data.draw(st.sampled_from([0, 1, 100]))
        tilings, options = (
            [Tiling.even((1, *tiles))],
            {"steps": 1, "patches": patches, **IN_PATCHES},
        )
        try:
            output = copy.deepcopy(net).train()(x)
        except RuntimeError as unfit:  # an image smaller than a kernel, say
            note(str(unfit))
            assume(False)
        try:
            check(net, x, noise(*output.shape), tilings, fused=fused, **options)
        except (PlanError, CaptureError) as refusal:
            note(str(refusal))
            assume(False)

    check_one()
