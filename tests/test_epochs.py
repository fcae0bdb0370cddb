"""Training as users have it: epochs over examples, checkpoints, and the untiled run beside it."""

import copy

import numpy as np
import pytest
import torch
from tiled import noise
from torch import nn
from torch.nn import functional as F

import spnb
from spnb.checkpoint import Checkpoint
from spnb.examples import matched
from spnb.options import OptionError
from spnb.recipe import OPTIMIZERS
from spnb.sources import ArraySource
from spnb.weights import WeightsError


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


def untiled(job, images, targets, loss=F.cross_entropy):
    """What plain PyTorch does with the same batches, micro-batches, rates and order."""
    net = copy.deepcopy(job.model).double().train()
    make = OPTIMIZERS[job.optimizer]
    optimizer = make(net.parameters(), lr=job.learning_rate, weight_decay=job.weight_decay)
    decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, job.learning_rate_decay)
    losses = []
    known = matched(ArraySource(images.numpy()), targets, net(images[:4]).shape, job.seed)
    net = copy.deepcopy(job.model).double().train()
    optimizer = make(net.parameters(), lr=job.learning_rate, weight_decay=job.weight_decay)
    decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, job.learning_rate_decay)
    # Sources read fp32, as image files have it.
    images = images.float().double()
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


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_epochs_follow_the_untiled_run(optimizer):
    images, labels = examples()
    each = job(num_epochs=3, optimizer=optimizer, learning_rate_decay=0.5)
    found = trained(each, images, labels)
    losses, state = untiled(each, images, labels)
    assert found.history["loss"].tolist() == pytest.approx(losses, rel=1e-6)
    assert_same(found.module.state_dict(), state, 1e-5)
    assert found.history["learning_rate"].tolist() == [0.05] * 2 + [0.025] * 2 + [0.0125] * 2
    assert found.history["accuracy"].between(0, 1).all()
    assert len(found.epochs) == 3
    assert "3 epochs" in str(found)


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": "sgd"},
        {"learning_rate": 0.01},
        {"weight_decay": 0.1},
        {"learning_rate_decay": 0.1},
        {"num_epochs": 2},
        {"seed": 5},
    ],
    ids=str,
)
def test_no_option_is_ignored(change):
    images, labels = examples()
    one = trained(job(num_epochs=3), images, labels)
    other = trained(job(**({"num_epochs": 3} | change)), images, labels)
    a, b = one.module.state_dict(), other.module.state_dict()
    assert any(not torch.equal(a[name], b[name]) for name in a)


def test_copies_of_a_plan_follow_one_with_as_many_micro_batches():
    images, labels = examples(17)
    alone = trained(job(num_epochs=2, batch_size=8, parts=4), images, labels)
    for copies, ranks in (
        ({"replicas": 2, "parts": 2}, 6),
        ({"replicas": 4, "parts": 1}, 12),
        ({"gems": True, "parts": 2}, 3),
        ({"gems": True, "times": 2, "parts": 1}, 3),
        ({"gems": True, "replicas": 2, "parts": 1, "enable_master_comm_opt": True}, 6),
    ):
        each = job(num_epochs=2, batch_size=8, **copies)
        plan = spnb.plan(each, training=True)
        assert plan.num_ranks == ranks
        assert plan.copies.overlapped == (not each.gems or each.enable_master_comm_opt)
        assert max(plan.memory_bytes) > 0
        found = trained(each, images, labels)
        assert found.history["loss"].tolist() == pytest.approx(alone.history["loss"].tolist())
        assert_same(found.module.state_dict(), alone.module.state_dict())
    assert spnb.plan(each).num_ranks == 6  # inference has them, too


def test_training_again_goes_on_with_what_was_trained():
    images, labels = examples()
    each = job(optimizer="sgd")
    with spnb.InProcess(spnb.plan(each, training=True), progress=False) as session:
        first = session.train(images, labels)
        second = session.train(images, labels)
    assert second.history["loss"].mean() < first.history["loss"].mean()
    assert all(parameter.requires_grad for parameter in first.module.parameters())
    other = job(first.module, optimizer="sgd")
    wanted = trained(other, images, labels)
    assert_same(second.module.state_dict(), wanted.module.state_dict(), 1e-9)


def test_numbers_as_targets():
    images, net = examples()[0], nn.Sequential(nn.Conv2d(1, 2, 3, padding=1))
    targets = noise(10, 2, 11, 9).float()
    for loss, function in (("mse", F.mse_loss), ("l1", F.l1_loss)):
        each = job(net, spatial_size=1, split_size=1, num_spatial_parts=3)
        found = trained(each, images, targets, loss=loss)
        losses, _ = untiled(each, images, targets.double(), function)
        assert found.history["loss"].tolist() == pytest.approx(losses, rel=1e-6)
        assert found.history["accuracy"].isna().all()


def test_goes_on_from_a_checkpoint_as_if_it_had_never_stopped(tmp_path):
    images, labels = examples()
    whole = trained(job(num_epochs=4, checkpoint=str(tmp_path / "whole.pth")), images, labels)
    file = tmp_path / "half.pth"
    trained(job(num_epochs=2, checkpoint=str(file)), images, labels)
    # Another split goes on where the first one stopped.
    split = {"num_spatial_parts": 4, "slice_method": "square", "parts": 2}
    rest = trained(job(num_epochs=4, checkpoint=str(file), **split), images, labels)
    assert_same(rest.module.state_dict(), whole.module.state_dict(), 1e-9)
    assert rest.history["loss"].tolist() == pytest.approx(whole.history["loss"].tolist(), rel=1e-9)
    state = torch.load(file, weights_only=True)
    assert state["epoch"] == 4
    plain = network().double()
    plain.load_state_dict(state["model"])
    assert int(plain[1].num_batches_tracked) == 4 * 2 * 2
    again = trained(job(num_epochs=4, checkpoint=str(file)), images, labels)
    assert len(again.history) == 8
    with pytest.raises(WeightsError, match=r"learning_rate 0.05, not 0.1"):
        trained(job(num_epochs=4, checkpoint=str(file), learning_rate=0.1), images, labels)


def test_a_kill_while_writing_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    file = tmp_path / "model.pth"
    Checkpoint({"a": torch.zeros(2)}, epoch=1).save(file)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        Checkpoint({"a": torch.ones(2)}, epoch=2).save(file)
    assert Checkpoint.read(file).epoch == 1
    assert [path.name for path in tmp_path.iterdir()] == ["model.pth"]


def test_trained_weights_are_those_that_infer_uses():
    images, labels = examples()
    each = job(num_epochs=2)
    with spnb.InProcess(spnb.plan(each, training=True), progress=False) as session:
        found = session.train(images, labels)
        with pytest.raises(ValueError, match="this plan is for training"):
            session.infer(images[:4])
        session.load(spnb.plan(each))
        result = session.infer(images[:4])
        assert result.check().passed
        with torch.no_grad():
            wanted = found.module(images[:4].float().double())
        torch.testing.assert_close(torch.as_tensor(result.output).double(), wanted)
        with pytest.raises(ValueError, match="this plan is for inference"):
            session.train(images, labels)


def test_examples_that_do_not_fit_are_refused():
    images, labels = examples()
    for given, message in (
        ((images, labels[:3]), "10 images, but 3 targets"),
        ((images, labels + 3), "run from 3 to 5, but the network has 3 classes"),
        ((images[:3], labels[:3]), "3 images make no batch of 4"),
        ((images, labels.double()), r"numbers have \(10, 3\)"),
        ((images, None), "images without targets"),
        ((None, labels), "targets without images"),
    ):
        with pytest.raises(ValueError, match=message):
            trained(job(), *given)
    with pytest.raises(ValueError, match="the loss mse does not go with"):
        trained(job(), images, labels, loss="mse")


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_has_its_parameters_in_full(precision, tmp_path):
    images, labels = examples()
    full = trained(job(num_epochs=3, precision="fp32"), images, labels)
    file = tmp_path / "half.pth"
    trained(job(num_epochs=1, precision=precision, checkpoint=str(file)), images, labels)
    state = torch.load(file, weights_only=True)
    assert {t.dtype for t in state["model"].values() if t.is_floating_point()} == {torch.float32}
    assert ("scaling" in state["optimizer"]) == (precision == "fp16")
    each = job(num_epochs=3, precision=precision)
    plan = spnb.plan(each, training=True)
    with spnb.InProcess(plan, progress=False) as session:
        whole = session.train(images, labels)
        assert whole.history["loss"].tolist() == pytest.approx(full.history["loss"].tolist(), 5e-2)
        session.load(spnb.plan(each))  # and now in half precision, with what was trained
        result = session.infer(images[:4])
        assert result.check().passed
        with torch.no_grad():
            wanted = whole.module(images[:4].float())
        assert result.output.dtype == each.dtype
        torch.testing.assert_close(result.output.float(), wanted, rtol=0.05, atol=0.05)
    rest = trained(job(num_epochs=3, precision=precision, checkpoint=str(file)), images, labels)
    assert_same(rest.module.state_dict(), whole.module.state_dict(), 0)


def test_options_that_training_does_not_take_are_refused():
    for options, message in (
        ({"enable_evaluation": True, "learning_rate": 0.001}, "is for inference"),
        ({"optimizer": "adamm"}, "unknown optimizer 'adamm': use adam, adamw"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
        ({"num_epochs": 0}, "num_epochs is 0"),
        ({"schedule": "1f2b"}, "unknown schedule"),
    ):
        with pytest.raises(OptionError, match=message):
            spnb.plan(job(**options), training=True)
    with pytest.raises(OptionError, match="num_epochs is for training"):
        job(num_epochs=2, enable_evaluation=True)


def test_synthetic_examples(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = trained(job(precision="fp32"), None, None)
    assert len(found.history) == 10


def test_draws_the_loss():
    images, labels = examples()
    ax = trained(job(num_epochs=2), images, labels).plot(label="tiled")
    assert [len(line.get_xdata()) for line in ax.lines] == [2, 4]  # between epochs; the loss


def test_memory_is_foreseen_by_schedule():
    def held(**options):
        each = job(image_size="64x48", batch_size=8, parts=4, balance=(3, 4), **options)
        return spnb.plan(each, training=True).memory_bytes

    one, all_first, again = held(), held(schedule="gpipe"), held(recompute=True)
    small = spnb.plan(job(image_size="64x48", batch_size=8, parts=4, balance=(3, 4))).memory_bytes
    assert small[0] < again[0] < one[0] < all_first[0]
