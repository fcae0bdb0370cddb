"""Checkpoints as training scripts write them."""

import argparse
import json
import sys

import numpy as np
import pytest
import torch
from torch import nn

from spnb.errors import OptionError, WeightsError
from spnb.job.job import Job


def net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3))


def prefixed(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


FORMS = {
    "DataParallel": (lambda s: prefixed(s, "module."), 'without the prefix "module."'),
    "torch.compile": (lambda s: prefixed(s, "_orig_mod."), 'without "_orig_mod" in its names'),
    "compiled layer": (
        lambda s: {n.replace("0.", "0._orig_mod.", 1): t for n, t in s.items()},
        'without "_orig_mod" in its names',
    ),
    "both": (
        lambda s: {"model": prefixed(s, "module._orig_mod.")},
        'without "_orig_mod" in its names, without the prefix "module."',
    ),
    "Lightning": (
        lambda s: {
            "epoch": 3,
            "state_dict": prefixed(s, "model.") | {"loss.weight": torch.ones(3)},
            "hyper_parameters": {"lr": 0.1},
        },
        'under "state_dict", without the prefix "model.", and without the 1 other tensors',
    ),
    "a script": (
        lambda s: {
            "epoch": 3,
            "loss": np.float64(0.5),
            "args": argparse.Namespace(lr=0.1),
            "model_state_dict": s,
            "optimizer_state_dict": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []},
        },
        'under "model_state_dict"',
    ),
    "averages beside": (
        lambda s: {"model": s, "model_ema": {n: 0 * t for n, t in s.items()}},
        'under "model", not those under "model_ema"',
    ),
    "BasicSR": (lambda s: {"params": s}, 'under "params"'),
    "BasicSR with averages": (
        lambda s: {"params": {n: 0 * t for n, t in s.items()}, "params_ema": s},
        'under "params_ema", not those under "params"',
    ),
    "other key": (lambda s: {"generator": {"weights": s}}, 'under "generator.weights"'),
}


@pytest.mark.parametrize(("form", "said"), FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_is_read_and_said_in_one_line(tmp_path, capfd, form, said, zipped):
    saved, path = net().state_dict(), tmp_path / "weights.pth"
    torch.save(form(saved), path, _use_new_zipfile_serialization=zipped)
    found = Job(net(), checkpoint=str(path)).module.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in saved.items())
    assert capfd.readouterr().err == f"spnb: {path}: read {said}\n"


@pytest.mark.parametrize("zipped", [True, False])
def test_a_plain_state_dict_needs_no_word(tmp_path, capfd, zipped):
    saved, path = net().state_dict(), tmp_path / "weights.pth"
    torch.save(saved, path, _use_new_zipfile_serialization=zipped)
    found = Job(net(), checkpoint=str(path)).module.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in saved.items())
    assert capfd.readouterr().err == ""


def test_a_wrapped_network_reads_the_weights_of_the_network(tmp_path, capfd, monkeypatch):
    # A device that an earlier test registered is none that DataParallel could use.
    module = sys.modules[nn.DataParallel.__module__]
    monkeypatch.setattr(module, "_get_available_device_type", lambda: None)
    saved, path = net().state_dict(), tmp_path / "weights.pth"
    torch.save(saved, path)
    found = Job(nn.DataParallel(net()), checkpoint=str(path)).module.state_dict()
    assert torch.equal(found["module.0.weight"], saved["0.weight"])
    assert 'with the prefix "module." added' in capfd.readouterr().err


def refusal(path, **options):
    with pytest.raises((WeightsError, OptionError)) as caught:
        _ = Job(net(), checkpoint=str(path), **options).module
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_names_that_differ_are_shown(tmp_path):
    path = tmp_path / "weights.pth"
    other = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(1, 1), nn.Conv2d(1, 1, 1)
    )
    torch.save({"state_dict": prefixed(other[:2].state_dict(), "model.")}, path)
    assert "it has no 2.weight, 2.bias" in refusal(path)
    torch.save(net().state_dict() | {"head.weight": torch.ones(1)}, path)
    assert "the network has no head.weight" in refusal(path)
    torch.save({f"layer{k}": torch.ones(1) for k in range(9)}, path)
    message = refusal(path)
    assert "it has no 0.weight, 0.bias, 1.weight, 1.bias and 4 more" in message
    assert "the network has no layer0, layer1, layer2, layer3 and 5 more" in message
    torch.save(net().state_dict() | {"0.bias": torch.nested.nested_tensor([torch.ones(4)])}, path)
    assert "it has no 0.bias" in refusal(path)
    torch.save({"state_dict": nn.Conv2d(1, 1, 1)}, path)
    assert "it holds a torch.nn.modules.conv.Conv2d" in refusal(path)


def test_a_network_on_meta_has_its_weights_from_a_file(tmp_path):
    with torch.device("meta"):
        empty = net()
    job = Job(empty, image_size=32, batch_size=1)
    assert job.graph.nodes[0].kind == "conv2d"
    with pytest.raises(
        OptionError, match=r"9 of the 9 weights of Sequential are on the meta device"
    ):
        _ = job.module
    saved, path = net().state_dict(), tmp_path / "weights.pth"
    torch.save(saved, path)
    found = job.replace(checkpoint=str(path)).module.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in saved.items())
    empty.register_buffer("shift", torch.empty(1, device="meta"), persistent=False)
    with pytest.raises(OptionError, match=r"1 of the 10 weights of Sequential.*\(shift\)"):
        _ = Job(empty, checkpoint=str(path)).module


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_weights_in_several_files_are_read_by_their_index(tmp_path, kind, capsys):
    state = prefixed(net().state_dict(), "model.")
    file_of = {name: f"model-{k % 2 + 1}-of-2.{kind}" for k, name in enumerate(state)}
    save = pytest.importorskip("safetensors.torch").save_file if kind != "bin" else torch.save
    for file in {*file_of.values()}:
        save({name: state[name] for name in state if file_of[name] == file}, tmp_path / file)
    index = tmp_path / f"model.{kind}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": file_of}))
    read = Job(net(), weights=str(index)).module.state_dict()
    assert all(torch.equal(read[name.removeprefix("model.")], state[name]) for name in state)
    assert 'without the prefix "model."' in capsys.readouterr().err
    other = file_of["model.0.bias"]
    index.write_text(json.dumps({"weight_map": {**file_of, "model.0.weight": other}}))
    with pytest.raises(WeightsError, match=f"{other} has no model.0.weight"):
        _ = Job(net(), weights=str(index)).module
    for text in ("{", "[]", "{}"):
        index.write_text(text)
        with pytest.raises(WeightsError, match="it has no weight_map"):
            _ = Job(net(), weights=str(index)).module
