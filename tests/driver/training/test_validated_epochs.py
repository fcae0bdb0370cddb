"""A validation after each epoch: its figures, the best weights, an early end, and schedulers."""

import copy
from functools import partial

import pytest
import torch
from torch.nn import functional as F
from trained_sessions import assert_same, examples, job, network, trained

import spnb
from spnb.errors import OptionError, RankError

HELD_OUT = tuple(part[10:] for part in examples(17))
RIGHT = {"right": lambda output, target: (output.argmax(1) == target).double().mean()}


def plain(each, images, targets, make_scheduler=None, patience=None):
    """A loop of plain PyTorch: the losses of validation, rates, and the weights of each epoch."""
    net, order = copy.deepcopy(each.model).double(), torch.arange(len(images))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    scheduler = make_scheduler(optimizer) if make_scheduler else None
    losses, rates, states = [], [], []
    for _ in range(each.num_epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        net.train()
        for chosen in order.split(each.batch_size):
            optimizer.zero_grad()
            F.cross_entropy(net(images[chosen]), targets[chosen]).backward()
            optimizer.step()
        with torch.no_grad():
            losses.append(float(F.cross_entropy(net.eval()(HELD_OUT[0]), HELD_OUT[1])))
        states.append({name: tensor.clone() for name, tensor in net.state_dict().items()})
        if scheduler is not None:
            scheduler.step(losses[-1])
        if patience and len(losses) - 1 - losses.index(min(losses)) >= patience:
            break
    return losses, rates, states


def one_batch(**options):
    """A job whose batch is the whole data set, so that its order does not matter."""
    own = {"learning_rate": 0.001, "batch_size": 8, "parts": 1}  # the rate is the optimizer's
    return job(network(), **own, **options)


SGD = partial(torch.optim.SGD, lr=0.5)


def test_epochs_are_validated_with_the_weights_of_the_moment():
    images, labels = examples(8)
    found = trained(one_batch(num_epochs=4), images, labels, validation=HELD_OUT, optimizer=SGD)
    losses, _, states = plain(one_batch(num_epochs=4), images, labels)
    assert found.epochs["validation_loss"].tolist() == pytest.approx(losses, rel=1e-9)
    assert found.epochs["validation_accuracy"].between(0, 1).all()
    assert found.best_epoch == losses.index(min(losses))
    assert_same(found.best.state_dict(), states[found.best_epoch])
    assert_same(found.module.state_dict(), states[-1])
    assert not found.best.training and all(p.requires_grad for p in found.best.parameters())
    assert f"{losses[-1]:.4f}" in str(found)


@pytest.mark.long
def test_the_last_step_of_an_epoch_has_the_figures_and_training_is_the_same():
    images, labels = examples(8)
    alone = trained(job(num_epochs=2), images, labels)
    assert alone.best is None and alone.best_epoch is None
    given = {"loss": F.cross_entropy, "metrics": RIGHT, "validation": HELD_OUT}
    for options in ({"validation": HELD_OUT}, given):
        found = trained(job(num_epochs=2), images, labels, **options)
        assert found.history["loss"].tolist() == pytest.approx(alone.history["loss"].tolist())
        assert_same(found.module.state_dict(), alone.module.state_dict(), 1e-12)
        assert found.history["validation_loss"].notna().tolist() == [False, True] * 2
    assert found.history["validation_right"].notna().tolist() == [False, True] * 2
    assert found.epochs["validation_right"].tolist() == pytest.approx(
        found.epochs["validation_accuracy"].tolist()
    )


def test_a_plateau_of_the_validation_loss_lowers_rates():
    images, labels = examples(8)
    make = partial(
        torch.optim.lr_scheduler.ReduceLROnPlateau, factor=0.1, patience=0, threshold=0.1
    )
    each = one_batch(num_epochs=8)
    losses, rates, states = plain(each, images, labels, make)
    assert len(set(rates)) > 1
    options = {"optimizer": SGD, "scheduler": make, "validation": HELD_OUT}
    with spnb.InProcess(spnb.plan(each.replace(num_epochs=4), training=True)) as session:
        session.train(images, labels, **options)
        found = session.train(images, labels, **options)  # goes on with the scheduler's state
    assert found.epochs["learning_rate"].tolist() == pytest.approx(rates)
    assert found.epochs["validation_loss"].tolist() == pytest.approx(losses)
    assert_same(found.module.state_dict(), states[-1])
    with pytest.raises((OptionError, RankError), match="ReduceLROnPlateau follows the validation"):
        trained(each, images, labels, optimizer=SGD, scheduler=make)


@pytest.mark.long
def test_training_ends_early_and_a_file_knows_it(tmp_path, capsys):
    images, labels = examples(8)
    each = one_batch(num_epochs=30, checkpoint=str(tmp_path / "net.pth"))
    losses, _, states = plain(each, images, labels, patience=2)
    assert len(losses) < 30
    options = {"optimizer": SGD, "validation": HELD_OUT, "patience": 2}
    with spnb.InProcess(spnb.plan(each, training=True)) as session:
        found = session.train(images, labels, **options)
        assert "training ends early: in 2 epochs the validation loss was" in capsys.readouterr().out
    assert len(found.epochs) == len(losses)
    assert_same(found.best.state_dict(), states[losses.index(min(losses))])
    file = torch.load(tmp_path / "net.pth", weights_only=True)
    assert_same(file["best"]["model"], found.best.state_dict(), 0)
    again = trained(each, images, labels, **options)
    assert len(again.history) == len(found.history) and again.best_epoch == found.best_epoch
    others = (HELD_OUT[0], (HELD_OUT[1] + 1) % 3)
    with spnb.InProcess(spnb.plan(each.replace(num_epochs=len(losses)), training=True)) as session:
        anew = session.train(images, labels, **options | {"validation": others})
    assert "the validation targets are others than before" in capsys.readouterr().out
    assert anew.best is None


def test_what_a_validation_cannot_be_is_one_line():
    images, labels = examples(8)
    for options, words in (
        ({"patience": 2}, "give validation too"),
        ({"patience": 0, "validation": HELD_OUT}, "patience is 0, but must be 1 or more"),
        ({"validation": HELD_OUT[0]}, "must be a pair of images and targets"),
        ({"validation": (HELD_OUT[0], labels)}, "7 images, but 8 targets"),
    ):
        with pytest.raises(ValueError, match=words):
            trained(job(), images, labels, **options)
