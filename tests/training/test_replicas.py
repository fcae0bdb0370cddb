"""Copies of a plan, mirrored ones too, train as one plan with their micro-batches does."""

import copy

import pytest
import torch
from hypothesis import assume, given, note, settings
from hypothesis import strategies as st
from networks import chains, conv
from random_plans import RANDOM_NETWORKS, few_and_many
from tiled import noise
from torch import nn
from training_steps import SQUARE, WHOLE, check, grid

from spnb.errors import CaptureError, PlanError
from spnb.ir.schedule import SCHEDULES
from spnb.ir.tiling import Tiling


@pytest.mark.slow(but_each=3)
@pytest.mark.long
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    ("parts", "copies"),
    [
        (1, {"replicas": 2}),
        (2, {"replicas": 2, "overlapped": False}),
        (1, {"times": 1}),
        (2, {"times": 1, "overlapped": False}),
        (1, {"times": 2}),
        (2, {"replicas": 2, "times": 1}),
    ],
    ids=str,
)
def test_copies_follow_the_untiled_run_with_the_same_micro_batches(schedule, parts, copies):
    net = nn.Sequential(
        conv(3, 4), nn.BatchNorm2d(4), nn.ReLU(), conv(), nn.BatchNorm2d(4, momentum=0.3), conv()
    ).double()
    x, target = noise(9, 3, 9, 8), noise(9, 4, 9, 8)
    stages = [SQUARE, Tiling.even((1, 1, 2)), WHOLE]
    plan, _ = check(net, x, target, stages, parts, schedule=schedule, **copies)
    assert plan.num_ranks == 7 * copies.get("replicas", 1)
    count = parts * copies.get("replicas", 1) * 2 * copies.get("times", 0.5)
    assert len(plan.micro_batch_sizes) == count


@pytest.mark.long
def test_a_mirrored_batch_shared_by_ranks_of_the_last_stage():
    net = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.ReLU(), conv(), nn.BatchNorm2d(4))
    tilings = [SQUARE, Tiling.even((2, 1, 1))]
    x, target = noise(8, 3, 9, 8), noise(8, 4, 9, 8)
    check(net.double(), x, target, tilings, times=1, replicas=2)


def test_mirrored_pipelines_are_held_one_at_a_time():
    net = nn.Sequential(conv(3, 4), conv(), conv(), conv(4, 2)).double()
    x, target = noise(8, 3, 8, 8), noise(8, 2, 8, 8)
    _, told = check(net, x, target, [WHOLE] * 3, 2, times=2, balance=[1, 1, 2])
    assert [step.most_held for step in told] == [2, 2, 2]


@pytest.mark.long
@few_and_many(25)
def test_random_networks_in_copies(examples):
    @settings(RANDOM_NETWORKS, max_examples=examples)
    @given(data=st.data())
    def check_one(data):
        dtype = data.draw(st.sampled_from([torch.float64, torch.float64, torch.float32]))
        net = data.draw(chains(2)).body.to(dtype)  # its dense output: training takes one
        assume(any(p.requires_grad for p in net.parameters()))
        size = [data.draw(st.integers(8, 20)) for _ in range(2)]
        parts, replicas = data.draw(st.sampled_from([(1, 1), (2, 1), (1, 2)]))
        times = data.draw(st.sampled_from([0, 1, 1, 2]))
        local = data.draw(st.sampled_from([1, 2]))
        grids = [data.draw(st.sampled_from([(1, 2), (2, 1), (2, 2), (1, 3)]))]
        tilings = [*(grid(*each) for each in grids), Tiling.even((local, 1, 1))]
        images = parts * replicas * (2 * times or 1) * local + data.draw(st.integers(0, 1))
        x = noise(images, 2, *size).to(dtype)
        # of the gradients' scale a tenth of that may differ
        options = {"tolerance": 1e-9 if dtype == torch.float64 else 1e-3}
        options |= {"steps": 1, "schedule": data.draw(st.sampled_from(sorted(SCHEDULES)))}
        options["recompute"] = data.draw(st.booleans())
        fused = data.draw(st.sampled_from([0, 0, 1, 100]))
        try:
            output = copy.deepcopy(net).train()(x)
        except RuntimeError as unfit:  # an image smaller than a kernel, say
            note(str(unfit))
            assume(False)
        try:
            target = noise(*output.shape).to(dtype)
            check(net, x, target, tilings, parts, fused, replicas=replicas, times=times, **options)
        except (PlanError, CaptureError) as refusal:
            note(str(refusal))
            assume(False)

    check_one()
