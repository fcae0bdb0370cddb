"""Small networks that sessions train, and the same training in plain PyTorch."""

import copy

import numpy as np
import pytest
import torch
from tiled import noise
from torch import nn
from torch.nn import functional as F

import spnb
from spnb.io.datasets.examples import matched
from spnb.io.sources import ArraySource
from spnb.training.recipe import OPTIMIZERS


def network(classes=3):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, classes),
    )


def examples(count=10, classes=3):
    labels = torch.randint(0, classes, (count,), generator=torch.Generator().manual_seed(3))
    return noise(count, 1, 11, 9), labels


def job(net=None, **options):
    defaults = {"image_size": "11x9", "batch_size": 4, "parts": 2, "precision": "fp64"}
    defaults |= {"num_spatial_parts": 2, "slice_method": "vertical", "learning_rate": 0.05}
    return spnb.Job(net or network(), **(defaults | options))


def trained(job, images, targets, **options):
    with spnb.InProcess(spnb.plan(job, training=True), progress=False) as session:
        return session.train(images, targets, **options)


def trained_after_an_interrupt(job, images, targets, at):
    """Ctrl-C comes at the beginning of an epoch; then `train` is called again."""
    with spnb.InProcess(spnb.plan(job, training=True), progress=False) as session:
        run = session.train_epoch

        def interrupted(shares, epoch):
            if epoch == at:
                raise KeyboardInterrupt
            return run(shares, epoch)

        session.train_epoch = interrupted
        with pytest.raises(KeyboardInterrupt):
            session.train(images, targets)
        session.train_epoch = run
        return session.train(images, targets)


def untiled(job, images, targets, loss=F.cross_entropy, frozen=False):
    """What plain PyTorch does with the same batches, micro-batches, rates and order.

    With ``frozen``, each layer keeps the mode that it has.
    """
    losses, make = [], OPTIMIZERS[job.optimizer]
    with torch.no_grad():
        shape = tuple(copy.deepcopy(job.model).double().eval()(images[:4]).shape)
    known = matched(ArraySource(images.numpy()), targets, shape, seed=job.seed)
    net = copy.deepcopy(job.model).double()
    net = net if frozen else net.train()
    optimizer = make(net.parameters(), lr=job.learning_rate, weight_decay=job.weight_decay)
    decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, job.learning_rate_decay)
    for epoch in range(job.num_epochs):
        order = known.order(epoch)
        for step in range(len(images) // job.batch_size):
            chosen = order[step * job.batch_size : (step + 1) * job.batch_size]
            optimizer.zero_grad()
            total = 0.0
            for part in np.array_split(chosen, job.parts):
                share = loss(net(images[part]), targets[part]) * len(part) / len(chosen)
                share.backward()
                total += float(share.detach())
            losses.append(total)
            optimizer.step()
        decay.step()
    return losses, net.state_dict()


def assert_same(state, wanted, tolerance=1e-8):
    assert set(state) == set(wanted)
    for name, tensor in wanted.items():
        torch.testing.assert_close(state[name], tensor, rtol=tolerance, atol=tolerance)


class Wired(nn.Module):
    """Layers of a network, and how they are wired."""

    def __init__(self, forward):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.wired = nn.BatchNorm2d(4), forward

    def forward(self, x):
        return self.wired(self, x)
