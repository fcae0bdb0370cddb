"""A checkpoint: training goes on from it, whatever ended it, in any split and precision."""

import numpy as np
import pytest
import torch
from trained_sessions import (
    assert_same,
    examples,
    job,
    network,
    trained,
    trained_after_an_interrupt,
)

import spnb
from spnb.driver.training.checkpoint import Checkpoint
from spnb.errors import WeightsError
from spnb.job.options import OptionError


@pytest.mark.long
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
    with pytest.raises(WeightsError, match=r"optimizer adam, not sgd: give the same optimizer"):
        trained(job(num_epochs=4, checkpoint=str(file), optimizer="sgd"), images, labels)


def test_what_differs_from_the_training_before_is_said(tmp_path, capsys):
    images, labels = examples(8)
    file = str(tmp_path / "net.pth")
    trained(job(checkpoint=file), images, labels)
    changed = {"learning_rate": 0.1, "batch_size": 2, "num_epochs": 2}
    plan = spnb.plan(job(checkpoint=file, **changed), training=True)
    with spnb.InProcess(plan) as session:
        found = session.train(images[:6], labels[:6])
    assert capsys.readouterr().out.splitlines()[1:5] == [
        "training continues from net.pth: 1 of 2 epochs are done",
        "net.pth: learning_rate is 0.1, and was 0.05",
        "net.pth: batch size: 2, and 4 before",
        "net.pth: examples: 6, and 8 before",
    ]
    assert found.history["learning_rate"].tolist() == pytest.approx([0.05] * 2 + [0.085] * 3)
    plan = spnb.plan(job(checkpoint=file, **changed | {"num_epochs": 3}), training=True)
    with spnb.InProcess(plan) as session:
        session.train(images[:6], 2 - labels[:6])
    assert "net.pth: the targets are others than before" in capsys.readouterr().out


@pytest.mark.long
@pytest.mark.parametrize(
    "content",
    [
        lambda net: net.state_dict(),
        lambda net: {"model": net.state_dict()},
        lambda net: {"model": net.state_dict(), "epoch": 3, "optimizer": {"state": {}}},
    ],
    ids=["weights", "under a key", "of another loop"],
)
def test_weights_are_read_and_never_written(tmp_path, content):
    images, labels = examples(8)
    pretrained, own = tmp_path / "pretrained.pth", tmp_path / "own.pth"
    start = network(3)
    with torch.no_grad():
        start[0].weight.mul_(2)
    torch.save(content(start), pretrained)
    before = pretrained.read_bytes()
    with pytest.raises(WeightsError, match=r"pretrained\.pth is not a checkpoint that spnb wrote"):
        trained(job(checkpoint=str(pretrained)), images, labels)
    found = trained(job(weights=str(pretrained), checkpoint=str(own)), images, labels)
    assert pretrained.read_bytes() == before
    assert_same(found.module.state_dict(), trained(job(start), images, labels).module.state_dict())
    both = {"weights": str(pretrained), "checkpoint": str(own), "num_epochs": 2}
    rest = trained(job(**both), images, labels)
    assert_same(
        rest.module.state_dict(),
        trained(job(start, num_epochs=2), images, labels).module.state_dict(),
    )


@pytest.mark.long
def test_nothing_is_written_or_read_unless_it_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"of": torch.ones(1)}, "checkpoint.pth")
    before = (tmp_path / "checkpoint.pth").read_bytes()
    given = {"image_size": 32, "batch_size": 2, "split_size": 1, "num_spatial_parts": 2}
    found = trained(
        spnb.Job("resnet20_v1", **given), torch.rand(2, 3, 32, 32), torch.ones(2).long()
    )
    assert found.checkpoint is None
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pth"]
    assert (tmp_path / "checkpoint.pth").read_bytes() == before


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


def test_an_interrupted_session_goes_on_where_the_file_is(tmp_path):
    images, labels = examples(8)
    path = tmp_path / "net.pth"
    whole = trained(job(num_epochs=3), images, labels)
    each = job(num_epochs=3, checkpoint=str(path))
    found = trained_after_an_interrupt(each, images, labels, at=2)
    assert found.history["loss"].tolist() == whole.history["loss"].tolist()
    assert_same(found.module.state_dict(), whole.module.state_dict(), 0)


def test_the_last_epoch_is_trained_again_if_its_file_was_not_written(tmp_path, monkeypatch):
    images, labels = examples(8)
    each = job(num_epochs=1, checkpoint=str(tmp_path / "net.pth"))
    save = Checkpoint.save

    def interrupted(checkpoint, path):
        monkeypatch.setattr(Checkpoint, "save", save)
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "save", interrupted)
    with spnb.InProcess(spnb.plan(each, training=True), progress=False) as session:
        with pytest.raises(KeyboardInterrupt):
            session.train(images, labels)
        found = session.train(images, labels)
    assert Checkpoint.read(tmp_path / "net.pth").epoch == 1
    assert_same(
        found.module.state_dict(), trained(job(num_epochs=1), images, labels).module.state_dict(), 0
    )


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


def foreign_state():
    module = network().double()
    optimizer = torch.optim.Adam(module.parameters())
    return {"model": module.state_dict(), "epoch": 7, "optimizer": optimizer.state_dict()}


@pytest.mark.parametrize("more", [{}, {"history": [], "recipe": {}}])
def test_a_checkpoint_of_another_program_is_not_taken_for_an_own_one(tmp_path, more):
    images, labels = examples(8)
    path, state = tmp_path / "net.pth", foreign_state() | more
    torch.save(state, path)
    with pytest.raises(WeightsError, match=r"net\.pth is not a checkpoint that spnb wrote"):
        Checkpoint.read(path)
    found = trained(job(weights=str(path)), images, labels)
    assert len(found.history) == 2
    assert torch.load(path, weights_only=True).keys() == state.keys()


def test_a_file_from_before_files_had_a_mark_is_read(tmp_path):
    images, labels = examples(8)
    path = tmp_path / "net.pth"
    trained(job(checkpoint=str(path)), images, labels)
    state = torch.load(path, weights_only=True)
    del state["format"], state["data"], state["optimizer"]["progress"]
    torch.save(state, path)
    assert Checkpoint.read(path).epoch == 1
    assert len(trained(job(checkpoint=str(path), num_epochs=2), images, labels).history) == 4
