"""A network that changes after it was loaded: its weights are followed, its layers are not."""

import dataclasses
import functools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune, spectral_norm, weight_norm

import spnb
from spnb.errors import PlanError


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.LeakyReLU(0.1), nn.Conv2d(2, 1, 1))


def loaded(module, **options):
    given = {"image_size": 12, "batch_size": 1, "split_size": 1, "num_spatial_parts": 2}
    return spnb.InProcess(spnb.plan(spnb.Job(module, **given | options)), progress=False)


def load_state(module):
    module.load_state_dict({name: 2 * t for name, t in module.state_dict().items()})


def add_in_place(module):
    with torch.no_grad():
        module[0].weight.add_(1)


def add_to_data(module):
    module[0].weight.data.add_(1)


def replace_data(module):
    module[2].weight.data = torch.ones(1, 2, 1, 1)


def negate_through_numpy(module):
    module[0].weight.detach().numpy()[:] *= -1


CHANGES = [load_state, add_in_place, add_to_data, replace_data, negate_through_numpy]
IMAGE = torch.rand(1, 1, 12, 12)


@pytest.mark.parametrize("options", [{}, {"precision": "fp64"}])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_weights_are_followed(change, options, capsys):
    module = net()
    session = loaded(module, **options)
    first = session.infer(IMAGE)
    change(module)
    session.progress = True
    second = session.infer(IMAGE)
    assert "the weights of Sequential changed: loading them again" in capsys.readouterr().out
    with torch.no_grad():
        expected = module.to(second.output.dtype)(IMAGE.to(second.output.dtype))
    assert torch.allclose(second.output, expected, atol=1e-5)
    assert not torch.allclose(first.output, second.output)
    assert second.check().passed
    session.infer(IMAGE)
    assert "changed" not in capsys.readouterr().out


@pytest.mark.long
def test_weights_of_the_plan_are_followed():
    session = loaded("resnet20_v1", image_size=32)
    before = session.infer().output
    with torch.no_grad():
        session.plan.module[0].weight.mul_(2)
    result = session.infer()
    assert result.check().passed
    assert not torch.allclose(result.output, before)


def test_a_file_that_is_written_again_is_followed(tmp_path):
    file, module = tmp_path / "weights.pth", net()
    torch.save(module.state_dict(), file)
    session = loaded(net(), checkpoint=str(file))
    session.infer(IMAGE)
    load_state(module)
    torch.save(module.state_dict(), file)
    with torch.no_grad():
        assert torch.allclose(session.infer(IMAGE).output, module(IMAGE), atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        lambda module: setattr(module[1], "negative_slope", 0.5),
        lambda module: module.append(nn.ReLU()),
        lambda module: setattr(module[0], "stride", (2, 2)),
        lambda module: module[0].register_forward_hook(lambda layer, args, y: y + 1),
    ],
    ids=["setting", "layer", "stride", "hook"],
)
def test_other_layers_and_settings_are_refused(change):
    module = net()
    session = loaded(module)
    change(module)
    with pytest.raises(PlanError, match="other layers or settings than it was planned with"):
        session.infer(IMAGE)
    session.load(spnb.plan(session.plan.job))
    result = session.infer(IMAGE)
    assert result.check().passed
    with torch.no_grad():
        assert torch.allclose(result.output, module(IMAGE), atol=1e-5)


def test_what_a_network_remembers_of_a_pass_is_no_change():
    class Remembers(nn.Conv2d):
        def forward(self, x):
            self.seen, self.last = getattr(self, "seen", 0) + 1, x
            return super().forward(x)

    module = Remembers(1, 2, 3, padding=1)
    session = loaded(module)
    with torch.no_grad():
        module(IMAGE)
    assert session.infer(IMAGE).check().passed


@dataclasses.dataclass
class Settings:
    scale: float = 2.0
    shifts: list = dataclasses.field(default_factory=lambda: [1, 2])


class Configured(nn.Module):
    """Settings in objects, an array, a set, a class, and a layer that PyTorch does not know of."""

    gain = 1.0

    def __init__(self):
        super().__init__()
        self.settings, self.space = Settings(), SimpleNamespace(factor=1.0)
        self.numbers, self.names = np.ones((1, 1, 1), np.float32), {"a"}
        self.activation = functools.partial(F.leaky_relu, negative_slope=0.1)
        self.first, self.layers = nn.Conv2d(1, 1, 1), [nn.Conv2d(1, 1, 3, padding=1)]
        self.settings.owner = self  # leads round

    def forward(self, x):
        y = self.activation(self.layers[0](self.first(x))) * self.settings.scale * self.space.factor
        y = y + sum(self.settings.shifts) + len(self.names)
        return y * torch.from_numpy(self.numbers) * self.gain


INSIDE = {
    "object": lambda net: setattr(net.settings, "scale", 3.0),
    "list of an object": lambda net: net.settings.shifts.append(3),
    "namespace": lambda net: setattr(net.space, "factor", 3.0),
    "array": lambda net: net.numbers.__imul__(2),
    "set": lambda net: net.names.add("b"),
    "partial": lambda net: net.activation.keywords.update(negative_slope=0.5),
    "layer in a list": lambda net: net.layers[0].weight.data.mul_(2),
    "class": lambda net: setattr(type(net), "gain", 2.0),
}


@pytest.mark.parametrize("change", INSIDE)
def test_what_is_inside_of_settings_is_seen(change, monkeypatch):
    monkeypatch.setattr(Configured, "gain", 1.0)
    torch.manual_seed(0)
    module = Configured()
    session = loaded(module)
    assert session.infer(IMAGE).check().passed
    INSIDE[change](module)
    with pytest.raises(PlanError, match="other layers or settings than it was planned with"):
        session.infer(IMAGE)


def test_a_check_after_a_change_says_so():
    module = net()
    session = loaded(module)
    result, checked = session.infer(IMAGE), session.infer(IMAGE)
    assert checked.check().passed
    add_in_place(module)
    with pytest.raises(ValueError, match="the weights of Sequential changed since this run"):
        result.check()
    assert session.infer(IMAGE).check().passed
    module[1].negative_slope = 0.5
    with pytest.raises(PlanError, match="other layers or settings"):
        result.check()


def pruned():
    layer = nn.Conv2d(1, 1, 3, padding=1)
    prune.l1_unstructured(layer, "weight", 0.4)
    return layer


class Remembering(nn.Conv2d):
    def forward(self, x):
        self.last = super().forward(x)
        return self.last * 2


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize(
    "make",
    [
        lambda: weight_norm(nn.Conv2d(1, 1, 3, padding=1)),
        lambda: spectral_norm(nn.Conv2d(1, 1, 3, padding=1)),
        pruned,
        lambda: Remembering(1, 1, 3, padding=1),
    ],
    ids=["weight_norm", "spectral_norm", "prune", "remembering"],
)
def test_attributes_with_gradients_of_an_earlier_pass_are_no_obstacle(make):
    torch.manual_seed(0)
    module = nn.Sequential(make(), nn.ReLU())
    module(IMAGE)
    module.eval()
    session = loaded(module)
    result = session.infer(IMAGE)
    assert result.check().passed
    with torch.no_grad():
        assert torch.allclose(result.output, module(IMAGE), atol=1e-5)
        for parameter in module.parameters():
            parameter.mul_(2)
        assert torch.allclose(session.infer(IMAGE).output, module(IMAGE), atol=1e-5)
