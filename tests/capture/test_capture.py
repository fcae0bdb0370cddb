"""What PyTorch allows in a forward is captured as calls that tiles can run."""

import pytest
import torch
from networks import randomize
from running import assert_equal, planned, run
from tiled import Call, check, noise
from torch import nn
from torch.nn import functional as F

import spnb
from spnb.capture.export import capture
from spnb.errors import CaptureError
from spnb.io.sources import NOT_GIVEN
from spnb.ir.tiling import Tiling

IMAGE = (2, 3, 9, 11)


def conv(inputs=3, outputs=3, **options):
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


def kinds(graph):
    return [node.kind for node in graph.nodes]


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: m[0](m[0](m[0](x))),  # one module, shared
        lambda m, x: m[0](x).relu_().add_(1).clamp_(max=2.0),
        lambda m, x: F.dropout(F.silu(m[0](x), inplace=True), 0.5, False, True),
        lambda m, x: m[0](x).__iadd__(x),
        lambda m, x: m[0](x) / x.shape[2] + x.size(3) * x.numel(),
        lambda m, x: F.lp_pool2d(m[0](x), 2, 3, stride=2),
        lambda m, x: m[0](x) * m[0].weight.square().sum().sqrt(),
        lambda m, x: m[0](x) + torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1),
        lambda m, x: m[0](x) + torch.arange(x.shape[-1], dtype=x.dtype),
        lambda m, x: torch.cat([m[0](x), *coordinates(x)], 1),
        lambda m, x: (m[0](x), {"a": [x, None, 3]}, torch.arange(4.0)),
        lambda m, x: torch.where(x.isnan(), 0.0, m[0](x)),
    ],
)
def test_what_a_forward_may_do(function):
    check(Call(function, conv()), IMAGE)


def coordinates(x):
    rows = torch.linspace(-1, 1, x.shape[2], dtype=x.dtype)
    columns = torch.linspace(-1, 1, x.shape[3], dtype=x.dtype)
    grids = torch.meshgrid(rows, columns, indexing="ij")
    return [grid.expand(x.shape[0], 1, -1, -1) for grid in grids]


@pytest.mark.parametrize("wrap", ["weight_norm", "spectral_norm"])
def test_weights_that_are_computed_are_constants(wrap):
    layer = getattr(nn.utils.parametrizations, wrap)(conv())
    graph = capture(layer, IMAGE, torch.float64)
    assert kinds(graph) == ["conv2d"]
    assert graph.constants
    check(nn.Sequential(conv(), layer.eval()), IMAGE)


@pytest.mark.long
def test_a_view_that_is_written_into():
    def net(m, x):
        y = m[0](x)
        y[:, :1].relu_()
        y[:, 1:, 2:5] += 1
        y.view(-1)[:3] = 0
        return m[0](y)

    check(Call(net, conv()), IMAGE, allow_gather=True)


def test_parts_and_stacks_become_slices_and_joins():
    net = Call(lambda x: torch.stack([*x.chunk(3, 1), x.unbind(1)[0].unsqueeze(1)]))
    assert set(kinds(capture(net, IMAGE, torch.float32))) <= {"slice", "select", "unsqueeze", "cat"}


def test_a_repetition_is_an_expansion():
    """PyTorch's decomposition of a whole network, which takes seconds, is not needed."""
    net = Call(lambda x: x.repeat_interleave(2, -1).repeat_interleave(3, 0))
    graph = capture(net, IMAGE, torch.float32)
    assert kinds(graph) == ["unsqueeze", "expand", "reshape"] * 2
    check(net, IMAGE)


def test_nothing_is_allocated_for_a_huge_image():
    graph = capture(conv(), (1, 3, 1 << 20, 1 << 20), torch.float32)
    assert graph.nodes[0].shape == (1, 3, 1 << 20, 1 << 20)


def test_what_is_out_of_sight_is_refused():
    class Escape(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return torch.from_numpy(x.numpy() * 2)

    with pytest.raises(CaptureError, match="Call cannot run or be captured at input shape"):
        capture(Call(Escape.apply), IMAGE, torch.float32)


def test_a_module_that_holds_tensors_of_its_own():
    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.scale = conv(), torch.tensor(3.0)
            self.register_buffer("shift", torch.ones(1, 3, 1, 1), persistent=False)
            self.cache = {}

        def forward(self, x):
            if "double" not in self.cache:
                self.cache["double"] = self.shift * 2
            return self.conv(x) * self.scale + self.cache["double"]

    net = randomize(Holder()).double()
    net.scale = net.scale.double()
    plan = planned(net, IMAGE, [Tiling.even((1, 2, 2))])
    assert not net.cache
    x = noise(*IMAGE)
    tiled, _ = run(plan, net, x)
    with torch.no_grad():
        assert_equal(tiled, net(x))


def test_inputs_by_name_and_by_place():
    net = Call(lambda m, image, row: m[0](image) + row[:, :, None, None], conv())
    for shapes in ([IMAGE, (2, 3)], {"x": IMAGE, "row": (2, 3)}):
        names = shapes if isinstance(shapes, dict) else None
        target = Named() if names else net
        plan = spnb.plan(spnb.Job(target, input_shapes=shapes, split_size=1))
        result = spnb.InProcess(plan).infer()
        assert result.check().passed
    with pytest.raises(ValueError, match=r"the inputs are named \['y'\], but \['x', 'row'\]"):
        plan.open_inputs({"y": NOT_GIVEN})
    with pytest.raises(ValueError, match="1 inputs, but the network takes 2: x, row"):
        plan.open_inputs("retina")
    with pytest.raises(ValueError, match=r"of shape \(3,\), but \(2, 3\) is planned"):
        plan.open_inputs([NOT_GIVEN, torch.ones(3)])


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = conv()

    def forward(self, x, scale=2.0, *, row):
        return self.conv(x) * scale + row[:, :, None, None]


class Decides(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_a_forward_that_decides_by_values_is_told(capfd):
    with pytest.raises(CaptureError, match="decides by the values of a tensor"):
        capture(Decides(), (1, 3, 8, 8), torch.float32)
    assert capfd.readouterr().err == ""  # of a graph that torch.export prints


def test_a_call_that_only_shows_a_shape_is_left_out():
    net = Call(lambda m, x: m[0](x) / x[0, 0].numel(), conv())
    assert kinds(capture(net, IMAGE, torch.float32)) == ["conv2d", "div"]
