"""Files of weights that are refused: with code in them, or of another network."""

import os
import pickle

import pytest
import torch
from torch import nn

import spnb
from spnb.errors import WeightsError
from spnb.job.checkpoint_io import read_file
from spnb.ui.cli import main


class RunsCode:
    def __reduce__(self):
        return os.system, ("echo this ran >&2",)


class OfAnotherProgram:
    pass


def saved(content):
    return lambda path: torch.save(content, path)


def pickled(path):
    path.write_bytes(pickle.dumps({"a": RunsCode()}, protocol=5))


def script(path):
    torch.jit.save(torch.jit.script(nn.Conv2d(1, 1, 1)), path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize(
    ("write", "told"),
    [
        (saved({"a": RunsCode()}), "it holds a posix.system, and not only tensors and plain data"),
        (saved({"a": OfAnotherProgram()}), r"it holds a \S+OfAnotherProgram, and not only"),
        (saved(nn.Conv2d(1, 1, 1)), r"it holds a torch.nn.modules.conv.Conv2d, and not only"),
        (pickled, "it holds .*tensors and plain data"),
        (script, "it is a TorchScript program, not weights"),
        (lambda path: path.write_bytes(b"cos\nsystem\n(S'ls'\ntR."), "it holds"),
        (lambda path: path.write_bytes(b""), "it is no file of torch.save, or it is damaged"),
        (lambda path: path.write_text("hello"), "it is no file of torch.save, or it is damaged"),
    ],
)
def test_no_advice_is_to_run_the_code_of_a_file(write, told, tmp_path, capfd):
    write(tmp_path / "net.pth")
    with pytest.raises(WeightsError, match=rf"cannot read the checkpoint \S+net.pth: {told}") as e:
        read_file(tmp_path / "net.pth")
    assert "\n" not in str(e.value)
    assert "weights_only" not in str(e.value)
    assert "load it" not in str(e.value)
    assert "this ran" not in capfd.readouterr().err


@pytest.mark.long
@pytest.mark.parametrize("verb", ["plan", "infer", "plan-training"])
def test_plan_refuses_the_checkpoints_that_a_run_refuses(verb, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        "spnb.driver.launch.engines.Engines.start", lambda self: pytest.fail("engines started")
    )
    own = spnb.Job("resnet20_v1").module.state_dict()
    name = next(iter(own))
    others = {
        "it has no": {key: value for key, value in own.items() if key != name},
        "the network has no more": own | {"more": torch.ones(1)},
        "size mismatch": own | {name: torch.ones(2, 2)},
    }
    flag = "--weights"
    more = ["--num-epochs", "2"] if verb == "plan-training" else []
    for told, weights in others.items():
        torch.save(weights, tmp_path / "net.pth")
        line = [verb.split("-")[0], "resnet20_v1", "--batch-size", "2", flag]
        assert main([*line, str(tmp_path / "net.pth"), *more]) == 2
        error = capsys.readouterr().err
        assert told in error
        assert error.count("\n") == 1
    torch.save(own, tmp_path / "net.pth")
    if verb != "infer":
        assert main([*line, str(tmp_path / "net.pth"), *more]) == 0
        assert capsys.readouterr().err == ""


@pytest.mark.long
def test_plan_refuses_a_checkpoint_that_no_training_wrote(tmp_path, capsys):
    path = tmp_path / "net.pth"
    torch.save(spnb.Job("resnet20_v1").module.state_dict(), path)
    line = ["plan", "resnet20_v1", "--num-epochs", "2", "--checkpoint", str(path)]
    assert main(line) == 2
    assert "is not a checkpoint that spnb wrote" in capsys.readouterr().err
