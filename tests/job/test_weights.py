"""Weights from factories, seeds and checkpoints."""

import pytest
import torch
from torch import nn

from spnb.errors import WeightsError
from spnb.ir.weights import tensors_of
from spnb.job.job import Job
from spnb.job.job_plan import plan


def factory():
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU())


not_a_network = {"a": 1}


def test_a_factory_is_called_under_the_seed():
    one, two, other = (Job("test_weights:factory", seed=s).module for s in (1, 1, 2))
    assert torch.equal(one[0].weight, two[0].weight)
    assert not torch.equal(one[0].weight, other[0].weight)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("no.such:thing", "cannot find the model no.such:thing: No module named"),
        ("test_weights:nothing", "has no attribute 'nothing'"),
        ("test_weights:not_a_network", "gives a dict, not a torch.nn.Module"),
    ],
)
def test_bad_factories_are_refused(spec, message):
    with pytest.raises(WeightsError, match=message):
        _ = Job(spec).module


def test_the_seed_gives_the_weights_and_leaves_torchs_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, two = (Job("resnet20_v1", seed=7).module.state_dict() for _ in range(2))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s}, lambda s: {"state_dict": s}])
def test_checkpoints(tmp_path, wrap):
    saved = Job("resnet20_v1", seed=3).module.state_dict()
    torch.save(wrap(saved), tmp_path / "weights.pth")
    job = Job("resnet20_v1", checkpoint=str(tmp_path / "weights.pth"), precision="fp64")
    assert job.weights_origin.endswith("weights.pth")
    for name, tensor in job.module.state_dict().items():
        assert torch.equal(tensor, saved[name].to(tensor.dtype))


def test_no_file_is_read_that_the_job_does_not_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = Job("resnet20_v1", seed=3).module.state_dict()
    for name in ("checkpoint.pth", "resnet20_v1-checkpoint.pth", "given.pth"):
        torch.save(state, name)
    job = Job("resnet20_v1")
    assert job.weights_origin == "seed 0"
    assert not torch.equal(job.module.fc.weight, state["fc.weight"])
    job = Job("resnet20_v1", weights="given.pth")
    assert job.weights_origin == "given.pth"
    assert torch.equal(job.module.fc.weight, state["fc.weight"])
    assert Job(factory()).weights_origin == "the module's own"


@pytest.mark.long
def test_a_plan_for_training_reads_a_checkpoint_if_it_exists_and_else_weights(tmp_path):
    given, own = tmp_path / "given.pth", tmp_path / "own.pth"
    torch.save(Job("resnet20_v1", seed=3).module.state_dict(), given)
    job = Job("resnet20_v1", weights=str(given), checkpoint=str(own), image_size=32, batch_size=2)
    assert plan(job, training=True).weights_origin == str(given)
    with pytest.raises(WeightsError, match="there is no checkpoint"):
        plan(job).build_module()
    torch.save(Job("resnet20_v1", seed=4).module.state_dict(), own)
    for training in (False, True):
        assert plan(job, training).weights_origin == str(own)


def test_bad_checkpoints_are_refused(tmp_path):
    def refusal(path):
        with pytest.raises(WeightsError) as caught:
            _ = Job("resnet20_v1", checkpoint=str(path)).module
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "there is no checkpoint" in refusal(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("hello")
    assert "cannot read the checkpoint" in refusal(tmp_path / "text.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    assert "holds no state dict" in refusal(tmp_path / "list.pth")
    torch.save(Job("resnet29_v2").module.state_dict(), tmp_path / "other.pth")
    assert "is not a checkpoint of Sequential" in refusal(tmp_path / "other.pth")
    torch.save(Job("resnet20_v1", num_classes=7).module.state_dict(), tmp_path / "classes.pth")
    assert "size mismatch for fc.weight" in refusal(tmp_path / "classes.pth")


def test_buffers_that_are_not_saved_are_weights_too():
    net = nn.Conv2d(1, 1, 1)
    net.register_buffer("hidden", torch.ones(2), persistent=False)
    assert torch.equal(tensors_of(net, ["hidden"])["hidden"], torch.ones(2))
