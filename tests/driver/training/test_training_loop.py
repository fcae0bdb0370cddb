"""Epochs on the ranks of a session: they follow the untiled run, copies and precisions too."""

import pytest
import torch
from torch import nn
from trained_sessions import (
    assert_same,
    examples,
    job,
    network,
    trained,
    trained_after_an_interrupt,
    untiled,
)

import spnb
from spnb.errors import PlanError, RankError
from spnb.training.recipe import OPTIMIZERS


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


@pytest.mark.long
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


@pytest.mark.long
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


@pytest.mark.long
def test_training_again_goes_on_with_what_was_trained(capsys):
    images, labels = examples()
    with spnb.InProcess(spnb.plan(job(num_epochs=2), training=True)) as session:
        first = session.train(images, labels)
        state = {name: tensor.clone() for name, tensor in first.module.state_dict().items()}
        second = session.train(images, labels)
    assert "training begins with the weights of the module's own" in capsys.readouterr().out
    wanted = trained(job(num_epochs=4), images, labels)
    assert second.history["loss"].tolist() == wanted.history["loss"].tolist()
    assert_same(second.module.state_dict(), wanted.module.state_dict(), 0)
    assert_same(first.module.state_dict(), state, 0)  # the earlier result stays as it was
    assert all(parameter.requires_grad for parameter in first.module.parameters())


def test_a_sweep_begins_with_the_weights_of_the_job_each_time(capsys):
    images, labels = examples()
    each = job()
    with spnb.InProcess(spnb.plan(each, training=True)) as session:
        for rate in (0.1, 0.01, 0.1):
            session.load(spnb.plan(each.replace(learning_rate=rate), training=True))
            found = session.train(images, labels).history["loss"].tolist()
            wanted = trained(job(learning_rate=rate), images, labels).history["loss"].tolist()
            assert found == wanted
    assert "Sequential begins with the weights of the module's own" in capsys.readouterr().out


def test_an_interrupted_training_ends_with_the_next_call():
    images, labels = examples(8)
    whole = trained(job(num_epochs=3), images, labels)
    found = trained_after_an_interrupt(job(num_epochs=3), images, labels, at=2)
    assert found.history["loss"].tolist() == whole.history["loss"].tolist()
    assert_same(found.module.state_dict(), whole.module.state_dict(), 0)


def test_trained_weights_are_run_by_the_job_of_the_training():
    images, labels = examples()
    each = job(num_epochs=2)
    with spnb.InProcess(spnb.plan(each, training=True), progress=False) as session:
        found = session.train(images, labels)
        with pytest.raises(ValueError, match="this plan is for training"):
            session.infer(images[:4])
        session.load(spnb.plan(found.job))
        result = session.infer(images[:4])
        assert result.check().passed
        with torch.no_grad():
            wanted = found.module(images[:4])
        torch.testing.assert_close(torch.as_tensor(result.output).double(), wanted)
        with pytest.raises(ValueError, match="this plan is for inference"):
            session.train(images, labels)


@pytest.mark.slow(but_each=2)
@pytest.mark.long
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
        session.load(spnb.plan(whole.job))  # and now in half precision, with what was trained
        result = session.infer(images[:4])
        assert result.check().passed
        with torch.no_grad():
            wanted = whole.module(images[:4].float())
        assert result.output.dtype == each.dtype
        torch.testing.assert_close(result.output.float(), wanted, rtol=0.05, atol=0.05)
    rest = trained(job(num_epochs=3, precision=precision, checkpoint=str(file)), images, labels)
    assert_same(rest.module.state_dict(), whole.module.state_dict(), 0)


def test_draws_the_loss():
    images, labels = examples()
    ax = trained(job(num_epochs=2), images, labels).plot(label="tiled")
    assert [len(line.get_xdata()) for line in ax.lines] == [2, 4]  # between epochs; the loss


def test_sessions_of_one_plan_train_for_themselves():
    images, labels = examples(8)
    plan = spnb.plan(job(), training=True)
    one, other = (spnb.InProcess(plan, progress=False) for _ in range(2))
    with one, other:
        first, second = (each.train(images, labels) for each in (one, other))
        assert first.history["loss"].tolist() == second.history["loss"].tolist()
        again = one.train(images, labels).history["loss"].tolist()
        assert other.train(images, labels).history["loss"].tolist() == again


def test_others_hear_of_a_failure_between_steps(monkeypatch):
    def failing(*_):
        raise MemoryError("no room for the optimizer")

    monkeypatch.setattr(torch.optim.Adam, "step", failing)
    images, labels = examples(8)
    plan = spnb.plan(job(), training=True)
    session = spnb.InProcess(plan, deadline=20, progress=False)
    with session, pytest.raises(RankError, match=r"rank \d, stage \d, .*: MemoryError: no room"):
        session.train(images, labels)


def test_frozen_layers_stay_as_they_are():
    """A batch norm in evaluation mode keeps its statistics, and a frozen layer its weights."""
    images, labels = examples()
    net = nn.Sequential(network()[:4], nn.BatchNorm2d(4), nn.Dropout(0.5), network()[4:])
    net.train()
    net[0][1].eval()
    net[2].eval()
    net[0][0].requires_grad_(False)
    with torch.no_grad():
        net[0][1].running_mean.add_(0.3)
    each = job(net, num_epochs=2, optimizer="sgd", parts=1)
    found = trained(each, images, labels)
    wanted, state = untiled(each, images, labels, frozen=True)
    assert found.history["loss"].tolist() == pytest.approx(wanted, rel=1e-10)
    assert_same(found.module.state_dict(), state, 1e-10)
    for name in ("0.0.weight", "0.1.running_mean", "0.1.num_batches_tracked"):
        assert torch.equal(found.module.state_dict()[name], net.state_dict()[name].double())
    assert [layer.training for layer in found.job.model.modules()] == [
        layer.training for layer in net.modules()
    ]


def test_a_layer_that_is_frozen_later_is_refused_until_it_is_planned_again():
    images, labels = examples(8)
    net = network().train()
    with spnb.InProcess(spnb.plan(job(net), training=True), progress=False) as session:
        net[1].eval()
        with pytest.raises(PlanError, match="other layers or settings than it was planned with"):
            session.train(images, labels)
        session.load(spnb.plan(session.plan.job, training=True))
        found = session.train(images, labels)
    assert int(found.module[1].num_batches_tracked) == 0


def test_a_network_in_evaluation_mode_is_trained_whole():
    images, labels = examples(8)
    wanted = trained(job(network().train()), images, labels)
    found = trained(job(network().eval()), images, labels)
    assert_same(found.module.state_dict(), wanted.module.state_dict(), 0)
