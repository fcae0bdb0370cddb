"""Regions of autocast, branches, loops, transforms in a forward: the same answer, or one line."""

import pytest
import torch
from networks import randomize
from running import assert_equal, captured, planned, run
from tiled import Call, check, check_tiled, noise
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import spnb
from spnb.capture.export import capture
from spnb.errors import CaptureError, PlanError
from spnb.ir.tiling import Tiling

IMAGE = (2, 3, 9, 11)


def conv(inputs=3, outputs=3, **options):
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


def kinds(graph):
    return [node.kind for node in graph.nodes]


def without_autocast(layers, x):
    with torch.autocast("cpu", enabled=False):
        return layers[0](x)


def without_gradient(layers, x):
    with torch.no_grad():
        y = layers[0](x)
    return y + layers[0](x)


def with_gradient(layers, x):
    with torch.enable_grad():
        return layers[0](x)


def in_inference_mode(layers, x):
    with torch.inference_mode():
        return layers[0](x)


@torch.no_grad()
def decorated(layers, x):
    return layers[0](x)


def nested(layers, x):
    with torch.autocast("cpu", enabled=False):
        y = layers[0](x)
        with torch.autocast("cuda", enabled=False), torch.no_grad():
            y = y.relu_() + 1
        return layers[0](y), x


TRANSPARENT = {
    "autocast that is off": without_autocast,
    "no_grad": without_gradient,
    "enable_grad": with_gradient,
    "inference_mode": in_inference_mode,
    "a function under no_grad": decorated,
    "nested regions": nested,
    "checkpoint": lambda m, x: checkpoint(m[0], x, use_reentrant=False),
    "reentrant checkpoint": lambda m, x: checkpoint(m[0], x, use_reentrant=True),
    "functional_call": lambda m, x: torch.func.functional_call(
        m[0], {"weight": m[0].weight * 2, "bias": m[0].bias}, (x,)
    ),
}


@pytest.mark.parametrize("forward", TRANSPARENT.values(), ids=TRANSPARENT)
def test_a_region_that_changes_nothing_is_transparent(forward):
    check(Call(forward, conv()), IMAGE)


VMAPS = {
    "over images": lambda m, x: torch.vmap(lambda image: image * 2 + 1)(x),
    "over channels": lambda m, x: torch.vmap(lambda c: c.relu() - 1, in_dims=1, out_dims=1)(
        m[0](x)
    ),
    "a convolution": lambda m, x: torch.vmap(lambda i: m[0](i[None])[0])(x),
    "a function of two": lambda m, x: torch.vmap(torch.mul, in_dims=(0, None))(
        m[0](x), m[0].bias[:, None, None]
    ),
    "twice": lambda m, x: torch.vmap(torch.vmap(lambda plane: plane.sigmoid()))(m[0](x)),
}


@pytest.mark.long
@pytest.mark.parametrize("forward", VMAPS.values(), ids=VMAPS)
def test_vmap_becomes_its_calls(forward):
    check(Call(forward, conv()), IMAGE)


# --- autocast -------------------------------------------------------------------------------


def half(layers, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return layers[0](x)


def half_and_back(layers, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = F.relu(layers[0](x)).mean((2, 3), keepdim=True)
        with torch.autocast("cpu", enabled=False):
            y = layers[1](x) * y.float()
        return layers[1](y).float() + F.softmax(layers[0](x).flatten(2), 1).view_as(x)


@pytest.mark.parametrize("forward", [half, half_and_back])
def test_autocast_casts_as_pytorch_does(forward):
    net = randomize(Call(forward, conv(), conv())).float().eval()
    x = noise(*IMAGE).float()
    plan = planned(net, IMAGE, [Tiling.even((1, 2, 2))], dtype=torch.float32)
    tiled, _ = run(plan, net, x)
    with torch.no_grad():
        untiled = net(x)
        exact = net.double()(x.double())
    assert_equal(tiled, untiled, 1e-2)
    assert (tiled.double() - exact.double()).abs().max() > 1e-4  # so it was computed in bfloat16


def test_autocast_finds_its_casts():
    graph = capture(Call(half, conv()), IMAGE, torch.float32)
    assert kinds(graph) == ["_to_copy", "conv2d"]
    assert [node.dtype for node in graph.nodes] == [torch.bfloat16] * 2
    assert [node.kind for node in graph.constants] == ["_to_copy"] * 2  # of weight and bias


# --- branches -------------------------------------------------------------------------------


def chosen(layers, x):
    y = layers[0](x)
    return torch.cond(y.mean() > 0, lambda y: layers[1](y).relu(), lambda y: y - 1, (y,))


def chosen_of_two(layers, x):
    first = torch.cond(x.sum() > 1e6, lambda x, y: (x, y), lambda x, y: (y + 1, x), (x, x * 2))
    return torch.cond(first[0].amax() > 0, torch.sin, torch.cos, (first[1],))


@pytest.mark.long
@pytest.mark.parametrize("shift", [-3.0, 3.0])
@pytest.mark.parametrize("forward", [chosen, chosen_of_two])
def test_both_branches_are_tiled_and_one_is_chosen(forward, shift):
    net = Call(lambda m, x: forward(m, x + shift), conv(), conv())
    check(net, IMAGE, parts=1)
    assert "where" in kinds(captured(net, [IMAGE], torch.float64))


def test_the_branch_that_is_not_chosen_may_be_anything():
    def forward(x):
        return torch.cond(x.amin() > 0, torch.log, lambda x: x * 2, (x,))

    check_tiled(Call(forward), IMAGE)


# --- loops ----------------------------------------------------------------------------------


def looped(layers, x):
    def step(count, x):
        return count + 1, layers[0](x)

    start = torch.zeros((), dtype=torch.int64)
    return torch.while_loop(lambda count, x: count < 3, step, (start, x))[1]


@pytest.mark.long
def test_a_loop_runs_where_it_is_not_tiled_and_is_refused_where_it_is():
    net = Call(looped, conv())
    check_tiled(net, IMAGE, grids=[(1, 1)])
    check_tiled(net, IMAGE, grids=[(2, 2)], fused=(0,), allow_gather=True)
    with pytest.raises(PlanError, match=r"stage 0, .*while_loop.*no tiling rule.*let the tiled"):
        planned(net, IMAGE, [Tiling.even((1, 2, 2))])


def test_what_spnb_does_not_know_is_refused_by_name():
    def forward(x):
        return torch.while_loop(lambda n: n < 3, lambda n: (n + 1,), (torch.zeros(()),))[0] + x

    with pytest.raises(CaptureError, match=r"while_loop.*reads no input of the network"):
        capture(Call(forward), IMAGE, torch.float32)


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = (
            nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.ReLU()),
            nn.Linear(4, 3),
        )

    @torch.autocast("cpu", dtype=torch.bfloat16)
    def forward(self, x):
        return self.head(self.conv(x).permute(0, 2, 3, 1)).softmax(-1)


@pytest.mark.parametrize("options", [{}, {"batch_size": 4, "parts": 2}, {"halo_D2": True}])
def test_a_session_runs_and_checks_a_network_under_autocast(capfd, options):
    options = {"batch_size": 1, "split_size": 1, "num_spatial_parts": 4} | options
    job = spnb.Job(randomize(Classifier()), image_size="18x22", **options)
    result = spnb.InProcess(spnb.plan(job), progress=False).infer()
    assert result.check().passed
    assert result.output.dtype == torch.bfloat16
    assert capfd.readouterr().err == ""


def test_a_session_checks_a_network_with_modules_in_branches():
    net = Call(lambda m, x: torch.cond(x.mean() > 0, m[0], m[1], (x,)), conv(), conv())
    job = spnb.Job(net, image_size=12, batch_size=1, split_size=1, num_spatial_parts=4)
    assert spnb.InProcess(spnb.plan(job), progress=False).infer().check().passed
