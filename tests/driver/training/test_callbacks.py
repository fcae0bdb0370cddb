"""Callbacks see each step and each epoch of a training, may end it, and change nothing else."""

import pytest
import torch
from trained_sessions import assert_same, examples, job, trained

import spnb
from spnb.errors import OptionError


class Seen:
    """Notes what it is called with; ends training after an epoch."""

    def __init__(self, last=None, stop_at_step=None):
        self.steps, self.epochs, self.weights = [], [], []
        self.last, self.stop_at_step = last, stop_at_step

    def after_step(self, record):
        self.steps.append((record.epoch, record.step, record.figures["loss"]))
        return (record.epoch, record.step) == self.stop_at_step

    def after_epoch(self, record):
        self.epochs.append((record.epoch, record.until, dict(record.figures)))
        self.weights.append({n: t.clone() for n, t in record.module.state_dict().items()})
        return record.epoch == self.last


@pytest.mark.long
@pytest.mark.parametrize("split", [{}, {"parts": 1, "gems": True}], ids=str)
def test_steps_one_by_one_train_the_same(split):
    images, labels = examples()
    alone = trained(job(num_epochs=3, **split), images, labels)
    seen, of_epochs = Seen(), []
    found = trained(job(num_epochs=3, **split), images, labels, callbacks=[seen, of_epochs.append])
    assert found.history["loss"].tolist() == alone.history["loss"].tolist()
    assert_same(found.module.state_dict(), alone.module.state_dict(), 0)
    rows = found.history[["epoch", "step", "loss"]]
    assert seen.steps == list(rows.itertuples(index=False, name=None))
    assert [record.epoch for record in of_epochs] == [0, 1, 2]
    assert_same(seen.weights[-1], found.module.state_dict(), 0)
    for (epoch, until, figures), (number, row) in zip(seen.epochs, found.epochs.iterrows()):
        assert (epoch, until) == (number, 3)
        assert figures == pytest.approx(dict(row))


@pytest.mark.parametrize("seen", [Seen(last=1), Seen(stop_at_step=(1, 0))])
def test_a_callback_ends_training_after_the_epoch(seen):
    images, labels = examples()
    with spnb.InProcess(spnb.plan(job(num_epochs=4), training=True), progress=False) as session:
        found = session.train(images, labels, callbacks=[seen])
        assert len(found.epochs) == 2
        assert len(session.train(images, labels).epochs) == 6  # as many more as the job says


@pytest.mark.parametrize("method", ["after_step", "after_epoch"])
def test_an_error_of_a_callback_leaves_the_whole_epochs(method):
    images, labels = examples()
    whole = trained(job(num_epochs=3), images, labels)

    class Failing:
        def failing(self, record):
            if record.epoch == 1:
                raise KeyboardInterrupt

    setattr(Failing, method, Failing.failing)
    with spnb.InProcess(spnb.plan(job(num_epochs=3), training=True), progress=False) as session:
        with pytest.raises(KeyboardInterrupt):
            session.train(images, labels, callbacks=[Failing()])
        found = session.train(images, labels)
    assert found.history["loss"].tolist() == whole.history["loss"].tolist()
    assert_same(found.module.state_dict(), whole.module.state_dict(), 0)


def test_dropout_is_the_same_step_by_step():
    images, labels = examples()
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 3, 3, padding=1), torch.nn.Dropout(0.5), torch.nn.Flatten(2)
    )
    classes = labels[:, None].expand(-1, 99) * 1
    each = job(net, num_epochs=2, slice_method="square")
    found = trained(each, images, classes, callbacks=[Seen()])
    assert found.history["loss"].tolist() == trained(each, images, classes).history["loss"].tolist()


def test_what_is_no_callback_is_refused():
    with pytest.raises(OptionError, match="a callback is a str: give a function"):
        trained(job(), *examples(), callbacks=["history.csv"])
