"""Calls on tensors of several types are refused where PyTorch refuses them, and before a run."""

import pytest
import torch
from running import captured
from tiled import Call, check_tiled, noise
from torch import nn
from torch.nn import functional as F

import spnb
from spnb.errors import CaptureError, PlanError
from spnb.ir.weights import tensors_of

SHAPE = (1, 4, 6, 8)


def single(*shape):
    return torch.ones(shape, dtype=torch.float32)


REFUSED = {
    "table": (lambda m, x: x + m[0](single(8, 4)).sum(), nn.Linear(4, 3)),
    "linear": (lambda m, x: m[0](x.float().movedim(1, 3)), nn.Linear(4, 3)),
    "matmul": (lambda m, x: x @ x.float().mT, nn.Identity()),
    "batch_norm": (lambda m, x: m[0](x.float()), nn.BatchNorm2d(4)),
    "layer_norm": (lambda m, x: m[0](x.float()), nn.LayerNorm(8)),
    "group_norm": (lambda m, x: m[0](x.float()), nn.GroupNorm(2, 4)),
    "grid_sampler": (
        lambda m, x: F.grid_sample(x, single(1, 3, 3, 2), align_corners=False),
        nn.Identity(),
    ),
    "index_add": (
        lambda m, x: x.index_add(1, torch.tensor([0]), single(1, 1, 6, 8)),
        nn.Identity(),
    ),
    "cdist": (lambda m, x: torch.cdist(x.flatten(2), single(1, 3, 48)), nn.Identity()),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_pytorch_cannot_compute_in_two_types_is_refused(name):
    function, module = REFUSED[name]
    net = Call(function, module).double().eval()
    with pytest.raises((RuntimeError, ValueError)):
        net(noise(*SHAPE))
    with pytest.raises(CaptureError, match=r"float(32|64).*float(32|64)"):
        captured(net, [SHAPE], torch.float64)


def test_types_that_pytorch_promotes_are_computed():
    def net(m, x):
        return torch.cat([x.float() * x, m[0](x.float().to(x))], 1) + single(8, 6, 8)

    check_tiled(Call(net, nn.Conv2d(4, 4, 3, padding=1)), SHAPE, grids=[(2, 2)])


def test_a_norm_of_half_precision_may_have_weights_in_single():
    net = Call(lambda m, x: m[0](x.bfloat16()).to(x), nn.GroupNorm(2, 4)).float().eval()
    assert captured(net, [SHAPE], torch.float32).nodes


def test_a_constant_that_these_weights_do_not_give_is_refused_in_one_line():
    net = Call(lambda m, x: x + m[0].weight.inverse().sum(), nn.Linear(4, 4)).double()
    nn.init.zeros_(net.layers[0].weight)
    graph = captured(net, [SHAPE], torch.float64)
    names = [weight.name for node in graph.nodes for weight in node.weights]
    with pytest.raises(PlanError, match=r"\(inverse|inv.*\) reads weights only.*singular"):
        tensors_of(net, names, graph)
    job = spnb.Job(net, input_shapes=[SHAPE], split_size=1, precision="fp64")
    with pytest.raises(PlanError, match="reads weights only"):
        spnb.InProcess(spnb.plan(job), progress=False).infer()
