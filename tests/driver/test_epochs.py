"""Training as users have it: epochs over examples, checkpoints, and the untiled run beside it."""

import copy

import numpy as np
import pytest
import torch
from tiled import noise
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import spnb
from spnb.driver.checkpoint import Checkpoint
from spnb.errors import CaptureError, PlanError, RankError, WeightsError
from spnb.io.examples import matched
from spnb.io.sources import ArraySource
from spnb.job.options import OptionError
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


def untiled(job, images, targets, loss=F.cross_entropy):
    """What plain PyTorch does with the same batches, micro-batches, rates and order."""
    net = copy.deepcopy(job.model).double().train()
    make = OPTIMIZERS[job.optimizer]
    optimizer = make(net.parameters(), lr=job.learning_rate, weight_decay=job.weight_decay)
    decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, job.learning_rate_decay)
    losses = []
    shape = tuple(net(images[:4]).shape)
    known = matched(ArraySource(images.numpy()), targets, shape, seed=job.seed)
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
        assert plan.replicas.overlapped == (not each.gems or each.enable_master_comm_opt)
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


class Wired(nn.Module):
    """Layers of a network, and how they are wired."""

    def __init__(self, forward):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.wired = nn.BatchNorm2d(4), forward

    def forward(self, x):
        return self.wired(self, x)


def without_gradient(net, x):
    with torch.no_grad():
        y = net.a(x)
        with torch.enable_grad():
            z = net.norm(net.b(y))
    return net.b(y) + z


@pytest.mark.parametrize("stages", [{"split_size": 1}, {"split_size": 2}])
@pytest.mark.parametrize(
    "forward",
    [
        lambda net, x: net.b(net.a(x)).mean(2),
        lambda net, x: net.b(net.a(x)).mean((2, 3)),
        lambda net, x: net.b(net.a(x)).permute(0, 2, 3, 1),
        lambda net, x: net.b(net.a(x)).flatten(2).transpose(1, 2),
        lambda net, x: net.b(net.a(x)).sum(1),
    ],
    ids=["rows", "means", "channels last", "tokens", "no channels"],
)
def test_outputs_lie_in_any_order(forward, stages):
    images, _ = examples(8)
    net = Wired(forward)
    targets = noise(*net(images.float()).shape).float()
    for loss, function in (("mse", F.mse_loss), ("l1", F.l1_loss)):
        each = job(net, **stages)
        found = trained(each, images, targets, loss=loss)
        losses, state = untiled(each, images, targets.double(), function)
        assert found.history["loss"].tolist() == pytest.approx(losses, rel=1e-6)
        untouched = [name for name in state if name.startswith("norm")]
        assert_same(found.module.state_dict(), state, 1e-5)
        assert all(name in found.module.state_dict() for name in untouched)


def test_class_scores_of_tokens_and_of_a_flat_output():
    images, _ = examples(8)
    net = Wired(lambda net, x: net.b(net.a(x)).flatten(2))
    labels = torch.randint(0, 4, (8, 99), generator=torch.Generator().manual_seed(1))
    flat = Wired(lambda net, x: net.b(net.a(x)).flatten(1))
    for wired, classes, options in (
        (net, labels, {}),
        (flat, labels[:, 0] * 90, {"spatial_size": 0, "num_spatial_parts": 4}),
    ):
        each = job(wired, slice_method="square", **options)
        found = trained(each, images, classes)
        losses, state = untiled(each, images, classes)
        assert found.history["loss"].tolist() == pytest.approx(losses, rel=1e-6)
        assert_same(found.module.state_dict(), state, 1e-5)


def test_targets_that_have_no_place_are_refused():
    images, labels = examples(8)
    rows = Wired(lambda net, x: net.a(x).permute(2, 0, 1, 3))
    with pytest.raises(ValueError, match=r"first dimension is not the batch of 4"):
        trained(job(rows, split_size=1), images, labels)
    last = Wired(lambda net, x: net.a(x).permute(0, 2, 3, 1))
    with pytest.raises(ValueError, match=r"no scores of classes in its second dimension"):
        cut = job(last, split_size=1, slice_method="horizontal")
        trained(cut, images, torch.zeros(8, 9, 4, dtype=torch.long))


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


def test_an_interrupted_session_goes_on_where_the_file_is(tmp_path):
    images, labels = examples(8)
    path = tmp_path / "net.pth"
    whole = trained(job(num_epochs=3), images, labels)
    plan = spnb.plan(job(num_epochs=3, checkpoint=str(path)), training=True)
    with spnb.InProcess(plan, progress=False) as session:
        run = session.train_epoch

        def interrupted(shares, epoch):
            if epoch == 2:
                raise KeyboardInterrupt
            return run(shares, epoch)

        session.train_epoch = interrupted
        with pytest.raises(KeyboardInterrupt):
            session.train(images, labels)
        session.train_epoch = run
        found = session.train(images, labels)
    assert found.history["loss"].tolist() == whole.history["loss"].tolist()
    assert_same(found.module.state_dict(), whole.module.state_dict(), 0)


def test_sessions_of_one_plan_go_on_with_what_any_of_them_trained():
    images, labels = examples(8)
    plan = spnb.plan(job(learning_rate_decay=1.0), training=True)
    one, other = (spnb.InProcess(plan, progress=False) for _ in range(2))
    with one, other:
        first = one.train(images, labels).history["loss"].tolist()
        then = other.train(images, labels).history["loss"].tolist()
    plan = spnb.plan(job(learning_rate_decay=1.0), training=True)
    with spnb.InProcess(plan, progress=False) as session:
        assert session.train(images, labels).history["loss"].tolist() == first
        assert session.train(images, labels).history["loss"].tolist() == then


def test_training_goes_on_in_another_precision(tmp_path):
    images, labels = examples(8)
    path = str(tmp_path / "net.pth")
    trained(job(checkpoint=path, precision="fp32"), images, labels)
    found = trained(job(checkpoint=path, precision="fp64", num_epochs=2), images, labels)
    wanted = trained(job(precision="fp64", num_epochs=2), images, labels)
    assert found.history["loss"].tolist() == pytest.approx(
        wanted.history["loss"].tolist(), rel=1e-4
    )


def test_numbers_of_any_library_are_plain_in_the_file(tmp_path):
    images, labels = examples(8)
    path = tmp_path / "net.pth"
    rate, epochs = np.logspace(-3, -2, 2)[0], np.int64(1)
    trained(job(checkpoint=str(path), learning_rate=rate, num_epochs=epochs), images, labels)
    assert torch.load(path, weights_only=True)["recipe"]["learning_rate"] == rate
    with pytest.raises(OptionError, match=r"learning_rate must be a number, not '0\.1'"):
        job(learning_rate="0.1")


def test_others_hear_of_a_failure_between_steps(monkeypatch):
    def failing(*_):
        raise MemoryError("no room for the optimizer")

    monkeypatch.setattr(torch.optim.Adam, "step", failing)
    images, labels = examples(8)
    plan = spnb.plan(job(), training=True)
    session = spnb.InProcess(plan, deadline=20, progress=False)
    with session, pytest.raises(RankError, match=r"rank \d, stage \d, .*: MemoryError: no room"):
        session.train(images, labels)
