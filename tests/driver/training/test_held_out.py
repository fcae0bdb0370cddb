"""Examples of a validation: a share of those given, or a folder; and `train --validation`."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from trained_sessions import examples, job

import spnb
from spnb.driver.training.held_out import divided
from spnb.driver.training.training_examples import examples_of
from spnb.errors import DatasetError, OptionError
from spnb.io.sources import ArraySource
from spnb.ir.region import Region
from spnb.ui.cli import main

SMALL = ["resnet20_v1", "--image-size", "8", "--batch-size", "4", "--split-size", "1"]
SMALL += ["--num-spatial-parts", "2"]


def whole(found):
    extent = Region.whole((len(found), *found.images.shape[2:]))
    return found.read(range(len(found)), extent, np.float64)


def test_a_share_is_left_out_of_the_training():
    images, labels = examples(11)
    plan = spnb.plan(job(), training=True)
    every = examples_of(plan, images, labels)
    found = divided(plan, every, 0.25)
    assert (len(found.training), len(found.validation)) == (8, 3)
    rows = torch.cat([torch.from_numpy(whole(part)) for part in (found.training, found.validation)])
    classes = np.concatenate([found.training.known_targets, found.validation.known_targets])
    order = [int((images == row).flatten(1).all(1).nonzero()) for row in rows]
    assert sorted(order) == list(range(11)) != order
    assert classes.tolist() == labels[order].tolist()
    again, other = divided(plan, every, 0.25), spnb.plan(job(seed=1), training=True)
    assert np.array_equal(whole(again.validation), whole(found.validation))
    assert not np.array_equal(
        whole(divided(other, every, 0.25).validation), whole(again.validation)
    )
    assert divided(plan, every, None).validation is None


def test_the_same_images_are_validated_however_they_are_given():
    images, labels = examples(11)
    with spnb.InProcess(spnb.plan(job(num_epochs=2), training=True), progress=False) as session:
        data = divided(session.plan, examples_of(session.plan, images, labels), 0.25)
        found = session.train(data.training, validation=data.validation)
        session.load(session.plan)
        parts = [(whole(part), part.known_targets) for part in (data.training, data.validation)]
        wanted = session.train(*parts[0], validation=parts[1])
    assert isinstance(data.validation.images.source, ArraySource)
    assert found.epochs.validation_loss.tolist() == wanted.epochs.validation_loss.tolist()
    assert found.history.loss.tolist() == wanted.history.loss.tolist()


def picture_folder(path, classes=("cat", "dog"), count=4):
    noise = np.random.default_rng(len(path.name))
    for name in classes:
        (path / name).mkdir(parents=True)
        for number in range(count):
            pixels = noise.integers(0, 255, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path / name / f"{number}.png")
    return str(path)


@pytest.mark.parametrize(
    ("options", "validation", "error", "message"),
    [
        ({}, 0.01, OptionError, "validation is 0.01 of 40 images, which is no image"),
        ({}, 0.95, ValueError, "2 images make no batch of 4"),
        ({}, "elsewhere", OptionError, r"images are synthetic \(app 3\): give app 1 or 2, or the"),
        ({"app": 1}, "nowhere", DatasetError, "there is no folder nowhere"),
        ({"app": 1}, "bird", DatasetError, "bird has the classes bird, but .* has cat, dog"),
    ],
)
def test_what_cannot_be_held_out(options, validation, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if options:
        options = options | {"datapath": picture_folder(tmp_path / "train")}
        picture_folder(tmp_path / "bird", ["bird"])
    given = {"image_size": 8, "batch_size": 4, "split_size": 1, "num_spatial_parts": 2}
    plan = spnb.plan(spnb.Job("resnet20_v1", **given, **options), training=True)
    with pytest.raises(error, match=message):
        divided(plan, examples_of(plan), validation)


@pytest.mark.long
def test_the_command_validates_and_keeps_the_best_weights(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    in_process = lambda plan, placement: spnb.InProcess(plan)  # noqa: E731
    monkeypatch.setattr("spnb.driver.cluster.Cluster", in_process)
    train, validation = (picture_folder(tmp_path / name) for name in ("train", "validation"))
    line = ["train", *SMALL, "--app", "1", "--datapath", train, "--learning-rate", "0.02"]
    line += ["--validation", validation, "--patience", "1", "--num-epochs", "4"]
    assert main([*line, "--report", "report.json"]) == 0
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    losses, best = [each["validation_loss"] for each in report["epochs"]], report["best_epoch"]
    assert best == losses.index(min(losses))
    assert ("training ends early: in 1 epochs" in printed) == (len(losses) == best + 2)
    assert f"wrote resnet20_v1-checkpoint-best.pth: the weights of epoch {best + 1}" in printed
    weights = ["--weights", "resnet20_v1-checkpoint-best.pth", "--report", "evaluated.json"]
    assert main(["evaluate", *SMALL, "--app", "1", "--datapath", validation, *weights]) == 0
    evaluated = json.loads((tmp_path / "evaluated.json").read_text())
    assert evaluated["loss"] == pytest.approx(min(losses), rel=1e-5)


def test_no_file_of_another_program_is_overwritten(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": torch.zeros(1)}, tmp_path / "resnet20_v1-checkpoint-best.pth")
    assert main(["train", *SMALL, "--validation", "0.5"]) == 2
    assert "best.pth is not a checkpoint that spnb wrote" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--patience 2", "patience counts epochs of a validation: give --validation too"),
        ("--validation 0.2 --patience 0", "patience is 0, but must be 1 or more epochs"),
        ("--validation 1.5", "1.5 is no share between 0 and 1; write a folder of this name as"),
    ],
)
def test_flags_that_contradict_each_other(flags, message, capsys):
    try:
        code = main(["train", *SMALL, *flags.split()])
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    assert message in capsys.readouterr().err
