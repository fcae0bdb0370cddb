"""An optimizer, a scheduler and a limit of gradients of one's own follow plain PyTorch."""

import copy
import pickle
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import lr_scheduler
from trained_sessions import assert_same, examples, job, network

import spnb
from spnb.errors import OptionError
from spnb.training.own_optimizer import OwnOptimizer

MOMENTUM = partial(torch.optim.SGD, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01)


def groups(named):
    """Biases are not decayed, and learn twice as fast."""
    biases = [parameter for name, parameter in named if name.endswith("bias")]
    others = [parameter for name, parameter in named if not name.endswith("bias")]
    slow = {"params": others, "weight_decay": 0.1}
    return torch.optim.AdamW([slow, {"params": biases, "lr": 0.02, "weight_decay": 0.0}], lr=0.01)


WAYS = {
    "momentum": {"optimizer": MOMENTUM},
    "groups": {"optimizer": groups, "scheduler": partial(lr_scheduler.StepLR, step_size=2)},
    "cosine": {
        "optimizer": MOMENTUM,
        "scheduler": partial(lr_scheduler.CosineAnnealingLR, T_max=4),
    },
    "clipped": {"optimizer": MOMENTUM, "clip": 0.05},
    "lambda": {"scheduler": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.5**epoch)},
    "job's, clipped": {"clip": 0.1},
}
SPLITS = {
    "2×2": {"num_spatial_parts": 4, "slice_method": "square", "split_size": 1},
    "stages": {},
    "gems": {"gems": True, "parts": 1},
    "replicas": {"replicas": 2, "parts": 1},
}


def untiled(each, images, labels, optimizer=None, scheduler=None, clip=None, epochs=4):
    net = copy.deepcopy(each.model).double().train()
    if optimizer is None:
        optimizer = partial(torch.optim.Adam, lr=0.05, weight_decay=0.0001)
    made = optimizer(list(net.named_parameters()))
    schedule = scheduler(made) if scheduler else None
    losses, rates = [], []
    for epoch in range(epochs):
        if scheduler is None and optimizer not in (MOMENTUM, groups):
            made.param_groups[0]["lr"] = 0.05 * 0.85**epoch
        rates += [made.param_groups[0]["lr"]] * 2
        order = np.random.default_rng([0, epoch]).permutation(len(images))
        for step in range(2):
            made.zero_grad()
            total = 0.0
            for part in np.array_split(order[step * 4 : step * 4 + 4], 2):
                share = F.cross_entropy(net(images[part]), labels[part]) / 2
                share.backward()
                total += float(share.detach())
            if clip:
                nn.utils.clip_grad_norm_(net.parameters(), clip)
            made.step()
            losses.append(total)
        if schedule:
            schedule.step()
    return losses, rates, net.state_dict()


@pytest.mark.slow(but_each=3)
@pytest.mark.long
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("way", WAYS)
def test_training_follows_plain_torch_also_in_two_calls(way, split):
    images, labels = examples(8)
    given, each = WAYS[way], job(num_epochs=2, **SPLITS[split])
    if "optimizer" in given:
        each = job(num_epochs=2, learning_rate=0.001, **SPLITS[split])  # the default
    with spnb.InProcess(spnb.plan(each, training=True), progress=False) as session:
        session.train(images, labels, **given)
        found = session.train(images, labels, **given)
    losses, rates, state = untiled(each, images, labels, **given)
    assert found.history["loss"].tolist() == pytest.approx(losses, rel=1e-9)
    assert found.history["learning_rate"].tolist() == pytest.approx(rates)
    assert_same(found.module.state_dict(), state, 1e-8)


@pytest.mark.long
def test_it_goes_on_from_a_checkpoint(tmp_path):
    images, labels = examples(8)
    given = WAYS["groups"]
    file = str(tmp_path / "net.pth")
    for epochs in (2, 4):
        each = job(learning_rate=0.001, num_epochs=epochs, checkpoint=file)
        with spnb.InProcess(spnb.plan(each, training=True), progress=False) as session:
            found = session.train(images, labels, **given)
    losses, rates, state = untiled(each, images, labels, **given)
    assert found.history["loss"].tolist() == pytest.approx(losses, rel=1e-9)
    assert found.history["learning_rate"].tolist() == pytest.approx(rates)
    assert_same(found.module.state_dict(), state, 1e-8)


def last_layer(named):
    """No other stage has a parameter of the last layer."""
    last = [parameter for name, parameter in named if name.startswith("6.")]
    return torch.optim.SGD(last, lr=0.05, momentum=0.9)


def test_an_optimizer_of_one_stage_alone():
    images, labels = examples(8)
    each = job(learning_rate=0.001, num_epochs=2)
    with spnb.InProcess(spnb.plan(each, training=True), progress=False) as session:
        found = session.train(
            images, labels, optimizer=last_layer, scheduler=WAYS["cosine"]["scheduler"]
        )
    losses, _, state = untiled(
        each, images, labels, last_layer, WAYS["cosine"]["scheduler"], epochs=2
    )
    assert found.history["loss"].tolist() == pytest.approx(losses, rel=1e-9)
    assert_same(found.module.state_dict(), state, 1e-9)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"optimizer": torch.optim.SGD([torch.ones(1)], 0.1)}, "optimizer is one SGD, but must be"),
        ({"optimizer": "sgd"}, "optimizer is 'sgd', but must be a class or a function"),
        ({"optimizer": lambda named: None}, "optimizer returned None"),
        ({"optimizer": torch.optim.LBFGS}, "LBFGS computes the loss several times"),
        ({"scheduler": "step"}, "scheduler is 'step', but must be"),
        ({"scheduler": lambda optimizer: None}, "scheduler returned None"),
        ({"clip": "1"}, "clip is '1', but must be a number"),
        ({"metrics": [F.mse_loss]}, "metrics are functions by name"),
        ({"metrics": {"dice": "dice"}}, "the metric dice is 'dice', but must be a function"),
        ({"metrics": {"loss": F.mse_loss}}, "a metric is named loss, as a column"),
        ({"callbacks": print}, r"must be a list: give \[callback\]"),
    ],
)
def test_what_is_no_optimizer_metric_or_callback_is_one_line(given, message):
    images, labels = examples(8)
    each = spnb.Job(network(), image_size="11x9", batch_size=4, num_spatial_parts=2, split_size=1)
    session = spnb.InProcess(spnb.plan(each, training=True), progress=False)
    with session, pytest.raises(OptionError, match=message) as caught:
        session.train(images, labels, loss=nn.CrossEntropyLoss(), **given)
    assert "\n" not in str(caught.value)


def test_a_network_that_is_frozen_whole_is_refused():
    images, labels = examples(8)
    each = job(network().requires_grad_(False))
    session = spnb.InProcess(spnb.plan(each, training=True), progress=False)
    with session, pytest.raises(ValueError, match="all parameters of the network are frozen"):
        session.train(images, labels)


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (
            {"optimizer": MOMENTUM},
            {},
            "learning_rate of the job has no effect beside the optimizer",
        ),
        (
            {"scheduler": partial(lr_scheduler.StepLR, step_size=2)},
            {"learning_rate_decay": 0.5},
            "learning_rate_decay of the job has no effect beside the scheduler",
        ),
        ({"clip": 0.0}, {}, r"clip is 0\.0, but must be above 0"),
    ],
)
def test_what_has_no_effect_is_refused(given, options, message):
    images, labels = examples(8)
    session = spnb.InProcess(spnb.plan(job(**options), training=True), progress=False)
    with session, pytest.raises(ValueError, match=message):
        session.train(images, labels, **given)


def test_functions_of_a_notebook_reach_other_processes():
    rate = 0.25
    own = OwnOptimizer(lambda named: torch.optim.SGD(named, lr=rate), clip=2.0)
    received = pickle.loads(pickle.dumps(own))
    made = received.optimizer(list(network().named_parameters()))
    assert (made.param_groups[0]["lr"], received.clip) == (rate, 2.0)


def test_another_kind_of_optimizer_is_refused_until_the_plan_is_loaded_again():
    images, labels = examples(8)
    plan = spnb.plan(job(learning_rate=0.001), training=True)
    with spnb.InProcess(plan, progress=False) as session:
        session.train(images, labels)
        with pytest.raises(OptionError, match="went on with Adam so far, and SGD cannot take"):
            session.train(images, labels, optimizer=MOMENTUM)
        session.load(plan)
        assert len(session.train(images, labels).history) == 2
