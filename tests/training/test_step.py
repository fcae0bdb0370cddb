"""Training steps: losses, parameters and running statistics follow the untiled network's."""

import pytest
import torch
from networks import conv
from running import planned_for_training as planned
from tiled import noise
from torch import nn
from torch.nn.utils import parametrizations
from training_steps import SQUARE, WHOLE, check, grid

from spnb import models
from spnb.errors import RankError
from spnb.ir.schedule import SCHEDULES
from spnb.ir.tiling import Tiling
from spnb.training.losses import LOSSES
from spnb.training.step import TrainingWorker
from spnb.transport.local import World


@pytest.mark.slow(but_each=5)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(("parts", "fused"), [(1, 0), (3, 0), (2, 100)])
def test_dense_networks_follow_the_untiled_one(schedule, parts, fused, recompute):
    net = nn.Sequential(
        conv(3, 4),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        conv(),
        nn.BatchNorm2d(4, momentum=0.3),
        conv(4, 2),
    ).double()
    x, target = noise(3, 3, 17, 14), noise(3, 2, 17, 14)
    options = {"schedule": schedule, "recompute": recompute}
    check(net, x, target, [SQUARE, grid(1, 3), WHOLE], parts, fused, **options)


def test_classes_of_images_and_of_pixels():
    pooled = nn.Sequential(
        conv(3, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    )
    labels = torch.tensor([0, 3, 4, 1])
    check(pooled.double(), noise(4, 3, 9, 13), labels, [SQUARE, WHOLE], 2, loss="cross_entropy")
    pixels = torch.randint(0, 4, (2, 9, 13), generator=torch.Generator().manual_seed(0))
    check(conv(3, 4).double(), noise(2, 3, 9, 13), pixels, [SQUARE], loss="cross_entropy")


@pytest.mark.long
def test_a_batch_shared_by_ranks_of_the_last_stage():
    net = nn.Sequential(
        conv(3, 4), nn.BatchNorm2d(4), nn.ReLU(), conv(), nn.BatchNorm2d(4)
    ).double()
    tilings = [SQUARE, Tiling.even((2, 1, 1))]
    check(net, noise(4, 3, 9, 8), noise(4, 4, 9, 8), tilings, loss="l1")
    check(net, noise(7, 3, 9, 8), noise(7, 4, 9, 8), tilings, parts=3)
    check(net, noise(3, 3, 9, 8), noise(3, 4, 9, 8), [WHOLE, Tiling.even((3, 1, 1))])


def test_a_rank_that_fails_is_named_and_the_others_hear_of_it():
    plan = planned(nn.Sequential(conv(3, 4), conv(4, 2)).double(), (1, 3, 9, 8), [SQUARE, WHOLE])

    def read(value, region):
        raise FileNotFoundError("the image is gone")

    def work(transport):
        rank_plan = plan.rank_plan(transport.rank)
        weights = {
            n: torch.zeros(w.shape).double()
            for node in rank_plan.nodes
            for w in node.weights
            for n in [w.name]
        }
        TrainingWorker(rank_plan, weights, weights, transport, LOSSES["mse"]).step(read, read)

    with pytest.raises(
        RankError, match=r"rank \d, stage 0, .*: FileNotFoundError: the image is gone"
    ):
        World(plan.num_ranks, deadline=60).run(work)


def test_what_is_made_of_parameters_is_made_anew_in_each_step():
    net = nn.Sequential(parametrizations.weight_norm(conv(3, 4)), nn.ReLU(), conv(4, 2)).double()
    check(net, noise(2, 3, 9, 8), noise(2, 2, 9, 8), [SQUARE, WHOLE])


def test_frozen_parameters_stay():
    net = nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 2)).double()
    net[0].requires_grad_(False)  # all that the first stage has
    check(net, noise(2, 3, 9, 8), noise(2, 2, 9, 8), [SQUARE, WHOLE])


@pytest.mark.slow
@pytest.mark.long
def test_many_steps_of_a_resnet():
    net = models.build("resnet20_v1", num_classes=10, num_layers=0, num_filters=0).double()
    x, labels = noise(4, 3, 32, 32), torch.tensor([1, 7, 7, 0])
    options = {"loss": "cross_entropy", "steps": 8, "rate": 0.02}
    check(net, x, labels, [SQUARE, WHOLE], 2, **options)


@pytest.mark.slow
@pytest.mark.long
def test_many_steps_of_an_amoebanet_on_nine_ranks():
    net = models.build("amoebanet", num_classes=10, num_layers=3, num_filters=16).double()
    x, labels = noise(4, 3, 64, 64), torch.tensor([1, 7, 7, 0])
    # Norms over as few values as the last cells have make much of a last bit, step by step.
    options = {"loss": "cross_entropy", "steps": 6, "rate": 0.002, "tolerance": 1e-6}
    plan, _ = check(net, x, labels, [SQUARE, SQUARE, WHOLE], **options)
    assert plan.num_ranks == 9


def test_one_forward_one_backward_holds_less():
    net = nn.Sequential(conv(3, 4), conv(), conv(), conv(4, 2)).double()
    x, target = noise(6, 3, 8, 8), noise(6, 2, 8, 8)
    stages = [WHOLE, WHOLE, WHOLE]
    _, told = check(net, x, target, stages, 6, schedule="1f1b", balance=[1, 1, 2])
    assert [step.most_held for step in told] == [3, 2, 1]
    _, told = check(net, x, target, stages, 6, schedule="gpipe", balance=[1, 1, 2])
    assert [step.most_held for step in told] == [6, 6, 6]
