"""A network that changes after it was loaded: its weights are followed, its layers are not."""

import pytest
import torch
from torch import nn

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
