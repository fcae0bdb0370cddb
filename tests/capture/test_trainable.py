"""What gradients reach in a captured network, as in PyTorch; what is out of sight is refused."""

import pytest
import torch
from tiled import noise
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from trained_sessions import Wired, assert_same, examples, job, trained, untiled

import spnb
from spnb.errors import CaptureError, PlanError


def without_gradient(net, x):
    with torch.no_grad():
        y = net.a(x)
        with torch.enable_grad():
            z = net.norm(net.b(y))
    return net.b(y) + z


@pytest.mark.parametrize(
    "forward",
    [
        without_gradient,
        lambda net, x: net.b(net.a(x).detach()),
        lambda net, x: net.b(net.a(x)) + net.norm(net.a(x)).detach(),
        lambda net, x: (net.b(net.a(x)), net.a(x) * 2)[1],
        lambda net, x: net.norm(net.b(net.norm(net.a(x)).relu())),
        lambda net, x: net.b(checkpoint(lambda y: net.b(y).tanh(), net.a(x), use_reentrant=True)),
    ],
    ids=[
        "no_grad",
        "detached",
        "a detached branch",
        "an unused branch",
        "one norm twice",
        "a checkpoint",
    ],
)
def test_what_no_gradient_reaches_stays_as_in_pytorch(forward):
    images, _ = examples(8)
    net = Wired(forward)
    targets = noise(8, 4, 11, 9).float()
    each = job(net, num_epochs=2, weight_decay=0.1, optimizer="adamw")
    found = trained(each, images, targets)
    losses, state = untiled(each, images, targets.double(), F.mse_loss)
    assert found.history["loss"].tolist() == pytest.approx(losses, rel=1e-6)
    assert_same(found.module.state_dict(), state, 1e-5)


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def changed_in_place(net, x):
    y = net.a(x)
    with torch.no_grad():
        y.mul_(2)
    return y


def test_gradients_that_are_out_of_sight_are_refused():
    images, _ = examples(8)
    targets = noise(8, 4, 11, 9).float()
    for forward, message in (
        (lambda net, x: Straight.apply(net.a(x)), "Straight is a torch.autograd.Function"),
        (changed_in_place, r"mul_ changes a tensor under torch.no_grad\(\)"),
    ):
        with pytest.raises(CaptureError, match=message):
            trained(job(Wired(forward), split_size=1), images, targets)
        spnb.plan(job(Wired(forward), split_size=1))  # to infer is another matter
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.InstanceNorm2d(4, track_running_stats=True))
    with pytest.raises(CaptureError, match=r"1 \(instance_norm\) has running statistics"):
        spnb.plan(job(net), training=True)
    with pytest.raises(CaptureError, match=r"norm \(batch_norm\) moves its running statistics"):
        spnb.plan(job(Wired(lambda net, x: (net.norm(net.a(x)), net.a(x))[1])), training=True)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, momentum=None))
    with pytest.raises(CaptureError, match="momentum=None"):
        spnb.plan(job(net), training=True)
    pooled = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4))
    with pytest.raises(
        PlanError, match=r"2 \(batch_norm\): a micro-batch of 1 image has one value"
    ):
        spnb.plan(job(pooled, parts=4), training=True)
    spnb.plan(job(pooled, parts=2), training=True)
