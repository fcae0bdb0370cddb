"""Memory of plans: figures that a change of the model must not change unseen."""

import pytest
from torch import nn
from trained_sessions import job

import spnb
from spnb.analysis.memory import held_value_bytes, memory
from spnb.analysis.patched_memory import patched_value_bytes
from spnb.analysis.training_memory import TrainingMemory

PLANS = {
    "fused": (
        {
            "image_size": 96,
            "batch_size": 2,
            "halo_D2": True,
            "fused_layers": 3,
            "split_size": 3,
            "spatial_size": 2,
        },
        False,
        [(57472, 1864192), (731264, 1725184), (298024, 884816)],
        [1864192, 1864192, 1864192, 1864192, 1695232, 1710080, 1710080, 1725184, 884816],
    ),
    "patches": (
        {
            "image_size": 128,
            "batch_size": 1,
            "halo_D2": True,
            "fused_layers": "all",
            "patches": 4,
            "balance": (5, 10),
        },
        False,
        [(38912, 2673408), (1047848, 4194304)],
        [2673408, 2671232, 2673408, 2673408, 4194304],
    ),
    "gems": (
        {"image_size": 64, "batch_size": 4, "gems": True},
        False,
        [(1086760, 1213440), (1086760, 1131088)],
        [1131088, 1213440, 1213440, 1213440, 1131088],
    ),
    "trained": (
        {"image_size": 64, "batch_size": 4, "parts": 4},
        True,
        [(500224, 5439668), (597544, 2964152)],
        [5339971, 5389992, 5352239, 5439668, 2964152],
    ),
    "recomputed": (
        {
            "image_size": 64,
            "batch_size": 4,
            "parts": 4,
            "recompute": True,
            "schedule": "gpipe",
            "precision": "bf16",
        },
        True,
        [(250112, 3999708), (298772, 3385664)],
        [3903740, 3951329, 3912157, 3999708, 3385664],
    ),
}
"""By name: options, whether it trains, weights and values of each stage, values of each rank."""


@pytest.mark.long
@pytest.mark.parametrize("name", PLANS)
def test_bytes_of_stages_and_ranks(name):
    options, training, of_stages, of_ranks = PLANS[name]
    plan = spnb.plan(spnb.Job("resnet20_v1", **options), training=training)
    assert memory(plan) == of_stages
    assert [held_value_bytes(plan, rank) for rank in range(plan.num_ranks)] == of_ranks


def test_a_value_that_is_handed_over_in_pieces_is_held_twice_for_a_moment():
    network = nn.Sequential(nn.Conv2d(3, 32, 1), nn.Conv2d(32, 2, 1))
    given = {"image_size": 64, "batch_size": 1, "split_size": 2, "precision": "fp32"}
    handed = 32 * 64 * 64 * 4
    from_one, from_four = (
        held_value_bytes(spnb.plan(spnb.Job(network, num_spatial_parts=tiles, **given)), tiles)
        for tiles in (1, 4)
    )
    assert from_one == handed + handed // 16  # and the output
    assert from_four == 2 * handed


@pytest.mark.long
def test_memory_is_foreseen_by_schedule():
    def held(**options):
        each = job(image_size="64x48", batch_size=8, parts=4, balance=(3, 4), **options)
        return spnb.plan(each, training=True).memory_bytes

    one, all_first, again = held(), held(schedule="gpipe"), held(recompute=True)
    small = spnb.plan(job(image_size="64x48", batch_size=8, parts=4, balance=(3, 4))).memory_bytes
    assert small[0] < again[0] < one[0] < all_first[0]


def test_patches_of_an_inference_are_not_followed_back(monkeypatch):
    network = nn.Conv2d(3, 4, 3, padding=1)
    given = {"image_size": 32, "batch_size": 1, "split_size": 1, "num_spatial_parts": 2}
    plan = spnb.plan(spnb.Job(network, patches=4, **given))
    monkeypatch.setattr(TrainingMemory, "_backward", None)
    assert patched_value_bytes(plan, 0) > 0
