"""Half precision in training: parameters in full, and a loss that is scaled."""

import pytest
import torch
from networks import conv
from running import planned_for_training as planned
from tiled import noise
from torch import nn
from training_steps import SQUARE, WHOLE

from spnb.ir.region import Region
from spnb.ir.weights import tensors_of
from spnb.training.loss_scale import LossScale
from spnb.training.losses import LOSSES
from spnb.training.step import TrainingWorker
from spnb.transport.local import World


def half_steps(dtype, tilings, scaling=None, steps=5, **copies):
    """Losses of some steps in half precision, what the ranks told, and the ranks."""
    torch.manual_seed(0)
    net = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.ReLU(), conv(), nn.ReLU(), conv(4, 2))
    x, target = noise(4, 3, 12, 10).float(), noise(4, 2, 12, 10).float()
    parts = 2 if not copies else 1
    plan = planned(net, tuple(x.shape), tilings, parts, dtype=dtype, **copies)

    def work(transport):
        rank_plan, graph = plan.rank_plan(transport.rank), plan.graph
        names = {n for image in rank_plan.with_mirror for n in graph.made_of(image.weights)[0]}
        trained = dict(net.named_parameters())
        facts = (tensors_of(net, names, graph), trained, transport, LOSSES["mse"])
        worker = TrainingWorker(rank_plan, *facts)
        worker.loss_scale = scaling or worker.loss_scale
        optimizer = torch.optim.SGD(list(worker.parameters.values()), 0.05)
        told = []
        for _ in range(steps):
            read = lambda value, region: x[region.slices_in(Region.whole((4, 12, 10)))[0]][  # noqa: E731
                :, :, slice(*region.spans[1]), slice(*region.spans[2])
            ].to(dtype)
            wanted = lambda value, region: target[slice(*region.spans[0])][  # noqa: E731
                :, :, slice(*region.spans[1]), slice(*region.spans[2])
            ]
            told.append(worker.step(read, wanted))
            if told[-1].finite:
                optimizer.step()
        return told, worker

    found = World(plan.num_ranks, deadline=60).run(work)
    losses = [sum(step.loss for step in each) for each in zip(*(told for told, _ in found))]
    return losses, [told for told, _ in found], [worker for _, worker in found]


@pytest.mark.slow(but_each=2)
@pytest.mark.long
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_follows_full_with_parameters_in_full(dtype):
    full, _, _ = half_steps(torch.float32, [WHOLE, WHOLE])
    assert full[-1] < full[0]
    for tilings, copies in (
        ([WHOLE, WHOLE], {}),
        ([SQUARE, WHOLE], {}),
        ([SQUARE, WHOLE], {"times": 1}),
    ):
        losses, _, learners = half_steps(dtype, tilings, **copies)
        assert losses == pytest.approx(full, rel=2e-2)
        assert losses != full
        every = [w for worker in learners for w in worker.parameters.values()]
        assert {w.dtype for w in every} == {torch.float32}
        assert all(w.grad.dtype == torch.float32 and w.grad.isfinite().all() for w in every)


@pytest.mark.long
def test_a_step_with_an_infinite_gradient_is_left_out_on_all_ranks():
    start = LossScale(2.0**40)
    losses, told, learners = half_steps(torch.float16, [SQUARE, WHOLE], scaling=start, steps=30)
    finite = [step.finite for step in told[0]]
    left_out = finite.index(True)
    assert 10 < left_out < 29 and all(finite[left_out:])
    assert all([step.finite for step in each] == finite for each in told)
    assert losses[:left_out] == pytest.approx([losses[0]] * left_out, rel=1e-3)  # nothing moved
    assert losses[-1] < losses[0]
    assert {worker.loss_scale for worker in learners} == {
        LossScale(2.0 ** (40 - left_out), 30 - left_out)
    }


def test_the_scale_of_a_loss_grows_again():
    scaling = LossScale(8.0, LossScale.patience - 2)
    assert scaling.after(True).after(True) == LossScale(16.0)
    assert LossScale(8.0, 3).after(False) == LossScale(4.0)
