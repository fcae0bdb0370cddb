"""Networks as exported programs, their files, TorchScript, compiled modules; and other methods."""

import pytest
import torch
from networks import randomize
from torch import nn
from torch.export import Dim

import spnb
from spnb.errors import CaptureError, OptionError

SPLIT = {"split_size": 1, "num_spatial_parts": 4}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Conv2d(4, 2, 3, padding=1, stride=2)
        self.register_buffer("scale", torch.full((2, 1, 1), 2.0), persistent=False)

    def forward(self, x):
        return {"y": self.head(self.stem(x)) * self.scale + torch.tensor([1.0, 2.0]).view(2, 1, 1)}


def net():
    return randomize(Net()).eval()


def answer(job, image):
    plan = spnb.plan(job)
    result = spnb.InProcess(plan, progress=False).infer(image)
    assert result.check().passed
    return result.output


def exported(module, **options):
    return torch.export.export(module, (torch.rand(2, 3, 16, 20),), **options)


def test_a_program_runs_at_the_size_that_it_was_exported_for():
    module, image = net(), torch.rand(2, 3, 16, 20)
    program = exported(module)
    job = spnb.Job(program, **SPLIT)
    assert job.input_shape == (2, 3, 16, 20)
    assert [block.path for block in job.graph.blocks] == ["stem", "head"]
    assert "ExportedProgram" in str(job)
    with torch.no_grad():
        assert torch.allclose(answer(job, image)["y"], module(image)["y"], atol=1e-5)
    answer(spnb.Job(program, precision="fp64", split_size=2, num_spatial_parts=2), image.double())
    with pytest.raises(OptionError, match="batch_size is 4, but the program was exported for 2"):
        spnb.Job(program, batch_size=4)
    with pytest.raises(
        OptionError, match=r"image_size is \(64, 64\), but the program was exported for"
    ):
        spnb.Job(program, image_size=64)
    assert spnb.Job(program, image_size="16x20", batch_size=2).input_shape == (2, 3, 16, 20)
    with pytest.raises(OptionError, match="method is decode, but a program has one"):
        spnb.Job(program, method="decode")


@pytest.mark.long
def test_a_program_of_any_size_runs_at_any_size():
    free = {"x": {0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO}}
    job = spnb.Job(exported(net(), dynamic_shapes=free), image_size="22x31", batch_size=3, **SPLIT)
    assert job.input_shape == (3, 3, 22, 31)
    answer(job, torch.rand(3, 3, 22, 31))
    answer(job.replace(image_size=24), torch.rand(3, 3, 24, 24))


def test_a_file_of_a_program_is_a_network(tmp_path):
    path, image = tmp_path / "net.pt2", torch.rand(2, 3, 16, 20)
    module = net()
    torch.export.save(exported(module), path)
    job = spnb.Job(str(path), **SPLIT)
    assert job.name == "net"
    with torch.no_grad():
        assert torch.allclose(answer(job, image)["y"], module(image)["y"], atol=1e-5)
    with pytest.raises(OptionError, match=r"there is no file .*none\.pt2"):
        spnb.Job(str(tmp_path / "none.pt2"))
    (tmp_path / "text.pt2").write_text("hello")
    with pytest.raises(OptionError, match=r"cannot read .*text\.pt2 as a program") as caught:
        spnb.Job(str(tmp_path / "text.pt2"))
    assert "\n" not in str(caught.value)


def test_a_program_of_two_inputs():
    class Sum(nn.Module):
        def forward(self, x, *, more):
            return x + more[:, :, None, None]

    inputs = (torch.rand(1, 3, 8, 8),), {"more": torch.rand(1, 3)}
    job = spnb.Job(torch.export.export(Sum(), *inputs), **SPLIT)
    assert job.shapes == {"x": (1, 3, 8, 8), "more": (1, 3)}
    answer(job, {"x": inputs[0][0], "more": inputs[1]["more"]})


class Scripted(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3, padding=1)

    def forward(self, x):
        y = self.conv(x)
        if y.shape[2] > 4:
            y = y + 1
        return y


@pytest.mark.parametrize("make", ["script", "trace", "load"])
def test_torchscript_is_converted(tmp_path, capfd, make):
    module, image = randomize(Scripted()).eval(), torch.rand(1, 3, 12, 14)
    script = torch.jit.trace(module, image) if make == "trace" else torch.jit.script(module)
    if make == "load":
        script.save(tmp_path / "net.pt")
        script = torch.jit.load(tmp_path / "net.pt")
    job = spnb.Job(script, image_size="12x14", batch_size=1, **SPLIT)
    assert job.name == "Scripted"
    with torch.no_grad():
        assert torch.allclose(answer(job, image), module(image), atol=1e-5)
    assert capfd.readouterr().err == ""


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_layer_of_torchscript_is_refused_by_name_unless_it_is_frozen():
    layer = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()).eval()
    image = torch.rand(1, 3, 12, 14)
    script = torch.jit.script(layer)
    net = nn.Sequential(nn.Conv2d(3, 3, 1), script)
    with pytest.raises(OptionError, match="the layer 1 of Sequential is TorchScript"):
        spnb.Job(net, image_size="12x14", batch_size=1, **SPLIT).network.module(None)
    for whole in (nn.Sequential(net[0], torch.jit.freeze(script)), torch.jit.script(net)):
        job = spnb.Job(whole, image_size="12x14", batch_size=1, **SPLIT)
        with torch.no_grad():
            expected = net(image)
        found = spnb.InProcess(spnb.plan(job), progress=False).infer(image).output
        assert torch.allclose(found, expected, atol=1e-5)


def test_torchscript_that_cannot_be_converted_is_refused_in_one_line(capfd):
    class Decides(nn.Module):
        def forward(self, x):
            while bool(x.sum() > 0):
                x = x - 1
            return x

    with pytest.raises(CaptureError, match=r"Decides is TorchScript that PyTorch cannot") as caught:
        spnb.Job(torch.jit.script(Decides()), image_size=8, batch_size=1)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


@pytest.mark.long
def test_a_compiled_module_is_its_module():
    module = net()
    job = spnb.Job(torch.compile(module), image_size=16, batch_size=1, **SPLIT)
    assert job.model is module
    assert job.name == "Net"


def test_a_lazy_module_is_refused():
    with pytest.raises(
        OptionError, match=r"the shape of 0.weight is not known yet: run Sequential"
    ):
        _ = spnb.Job(nn.Sequential(nn.LazyConv2d(4, 3)), image_size=16).graph


# --- methods ----------------------------------------------------------------------------------


class AutoEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Conv2d(3, 4, 3, padding=1, stride=2)
        self.decoder = nn.Sequential(nn.ConvTranspose2d(6, 5, 2, 2), nn.Conv2d(5, 3, 3, padding=1))
        self.quantized = nn.Conv2d(4, 6, 1)

    def encode(self, x):
        return self.encoder(x)

    def decode(self, z, scale=1.0):
        return self.decoder(self.quantized(z)) * scale

    def forward(self, x):
        return self.decode(self.encode(x))


@pytest.mark.long
def test_a_method_other_than_forward_is_run():
    module = randomize(AutoEncoder()).eval()
    job = spnb.Job(module, method="decode", image_size="9x11", batch_size=1, **SPLIT)
    assert job.input_shape == (1, 4, 9, 11)
    image = torch.rand(1, 4, 9, 11)
    with torch.no_grad():
        assert torch.allclose(answer(job, image), module.decode(image), atol=1e-5)
    assert "forward" not in vars(module)
    assert next(block.path for block in job.graph.blocks) == "quantized"
    whole = job.replace(method="forward", image_size="10x12")
    with torch.no_grad():
        assert torch.allclose(
            answer(whole, image := torch.rand(1, 3, 10, 12)), module(image), atol=1e-5
        )
    assert not whole.network.is_same_as(job.network)


class Segmenter(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        return self.conv(x) * (2.0 if self.training else 1.0)

    def classes(self, x):
        return self(x).argmax(1)

    def scores(self, x):
        return self.forward(x).softmax(1)


def test_a_method_that_calls_the_module_itself():
    module, image = randomize(Segmenter()).eval(), torch.rand(1, 3, 8, 8)
    for method in ("classes", "scores"):
        job = spnb.Job(module, method=method, image_size=8, batch_size=1, **SPLIT)
        with torch.no_grad():
            assert torch.allclose(answer(job, image), getattr(module, method)(image), atol=1e-6)
    trained = job.network.graph(job.shapes, job.dtype, training=True)
    assert any("mul" in node.op for node in trained.nodes)  # the mode of training reaches forward
    assert "forward" not in vars(module)


def make_auto_encoder():
    return randomize(AutoEncoder()).eval()


def test_a_method_of_a_factory():
    job = spnb.Job("test_foreign:make_auto_encoder", method="encode", image_size=8, **SPLIT)
    assert [node.kind for node in job.graph.nodes] == ["conv2d"]


@pytest.mark.parametrize(
    ("model", "method", "message"),
    [
        (AutoEncoder(), "decoed", "AutoEncoder has no method decoed: it has decode"),
        (AutoEncoder(), "encoder", "AutoEncoder has no method encoder: it has encode"),
        (AutoEncoder(), "eval", "AutoEncoder has no method eval"),
        ("resnet", "decode", "method is decode, but resnet is built in|resnet has its forward"),
    ],
)
def test_methods_that_are_refused(model, method, message):
    with pytest.raises(OptionError, match=message):
        _ = spnb.Job(model, method=method, image_size=16).graph


def test_a_method_is_trained():
    module = randomize(AutoEncoder())
    job = spnb.Job(module, method="decode", image_size=8, batch_size=2, **SPLIT)
    plan = spnb.plan(job, training=True)
    found = spnb.InProcess(plan, progress=False).train(
        torch.rand(2, 4, 8, 8), torch.rand(2, 3, 16, 16)
    )
    assert found.module(torch.rand(1, 4, 8, 8)).shape == (1, 3, 16, 16)
