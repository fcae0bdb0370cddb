"""A checkpoint with a wrong field is refused in one line, before a training goes on from it."""

import dataclasses

import pytest
import torch

import spnb
from spnb.driver.training.checkpoint import MARK, Checkpoint
from spnb.errors import WeightsError
from spnb.ui.cli import main

GOOD = {
    "model": {"weight": torch.ones(4, 3), "bias": torch.ones(4)},
    "optimizer": {
        "name": "adam",
        "state": {"weight": {"step": torch.tensor(2.0), "exp_avg": torch.ones(4, 3)}},
        "progress": {"kind": "Adam", "groups": [{"lr": 0.1}], "scheduler": {}},
        "scaling": {"factor": 1024.0, "good": 3},
    },
    "epoch": 2,
    "history": [
        {"epoch": 0, "step": 0, "loss": 1.0, "accuracy": float("nan")},
        {"epoch": 1, "step": 0, "loss": 0.5, "accuracy": float("nan")},
    ],
    "recipe": {"loss": "mse", "optimizer": "adam", "learning_rate": 0.1, "seed": 0},
    "data": {"batch_size": 2, "examples": 4, "targets": 7},
    "best": {"epoch": 1, "loss": 0.4, "targets": 7, "model": {"weight": torch.ones(4, 3)}},
}


def written(path, **changed):
    state = MARK | GOOD | changed
    torch.save({name: value for name, value in state.items() if value is not ...}, path)
    return path


def test_good_fields_are_read(tmp_path):
    found = Checkpoint.read(written(tmp_path / "net.pth"))
    assert found.epoch == 2
    assert dataclasses.asdict(found).keys() == GOOD.keys()
    few = {name: ... for name in GOOD if name != "model"}
    assert Checkpoint.read(written(tmp_path / "few.pth", **few)).epoch == 0


def of_optimizer(**changed):
    return {"optimizer": GOOD["optimizer"] | changed}


def of_best(**changed):
    return {"best": GOOD["best"] | changed}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"epoch": "x"}, "epoch is 'x', but must be a whole number up to 1,000,000"),
        ({"epoch": float("nan")}, "epoch is nan, but"),
        ({"epoch": -5}, "epoch is -5, but"),
        ({"epoch": 2.0}, "epoch is 2.0, but"),
        ({"epoch": True}, "epoch is True, but"),
        ({"epoch": None}, "epoch is None, but"),
        ({"epoch": 10**9, "history": []}, "epoch is 1000000000, but must be a whole number up"),
        ({"epoch": 10**5}, "epoch is 100000, but must be 2, as history says"),
        ({"optimizer": [1]}, r"optimizer is \[1\], but must be a dict"),
        (of_optimizer(state=[1]), r"optimizer.state is \[1\], but must be"),
        (of_optimizer(state={"weight": 3}), r"optimizer.state is {'weight': 3}, but"),
        (of_optimizer(name=3), "optimizer.name is 3, but must be a name"),
        (of_optimizer(progress=7), "optimizer.progress is 7, but"),
        (of_optimizer(progress={"groups": [3]}), "optimizer.progress is .*, but"),
        (of_optimizer(scaling={"scale": 1}), "optimizer.scaling is .*, but"),
        (of_optimizer(scaling={"factor": float("nan")}), "optimizer.scaling is .*, but"),
        (
            of_optimizer(state={"weight": {"exp_avg": torch.ones(3)}}),
            r"optimizer.state.weight.exp_avg is .*3,.*, but must be of shape \(4, 3\), as weight",
        ),
        (of_optimizer(state={"weight": {"a": torch.ones(4, 3, device="meta")}}), "optimizer.state"),
        (of_optimizer(state={"weight": {"a": torch.ones(4, 3).to_sparse()}}), "optimizer.state"),
        ({"model": {"weight": torch.ones(4, 3).to_sparse()}}, "model is .*, but must be weights"),
        ({"history": 7}, "history is 7, but must be a list"),
        ({"history": [7]}, r"history is \[7\], but must be a list"),
        ({"history": [{"loss": "x"}]}, "history is .*, but must be a list"),
        ({"recipe": 7}, "recipe is 7, but must be a dict"),
        ({"recipe": {"seed": [0]}}, "recipe is .*, but must be a dict"),
        ({"data": {"examples": "x"}}, "data is .*, but must be a dict of whole numbers"),
        ({"best": 7}, "best is 7, but must be a dict"),
        (of_best(epoch=-1), "best.epoch is -1, but"),
        (of_best(loss="x"), "best.loss is 'x', but must be a number"),
        (of_best(model=torch.ones(1)), "best.model is .*, but must be weights by name"),
        ({"model": 7}, "model is 7, but must be weights by name"),
        ({"model": {"weight": 7}}, "model is {'weight': 7}, but must be weights by name"),
        ({"model": ...}, "has no model"),
    ],
)
def test_a_wrong_field_is_named(changed, told, tmp_path):
    path = written(tmp_path / "net.pth", **changed)
    with pytest.raises(WeightsError, match=rf"^{path}:? {told}") as caught:
        Checkpoint.read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.long
def test_a_command_refuses_it_before_ranks_start(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        "spnb.driver.launch.engines.Engines.start", lambda self: pytest.fail("engines started")
    )
    model = spnb.Job("resnet20_v1").module.state_dict()
    path = written(tmp_path / "net.pth", model=model, epoch="x", optimizer=..., best=...)
    assert main(["train", "resnet20_v1", "--checkpoint", str(path)]) == 2
    printed = capsys.readouterr().err
    assert f"{path}: epoch is 'x', but must be" in printed
    assert printed.splitlines()[-1].startswith("spnb: ")
    assert "Traceback" not in printed
