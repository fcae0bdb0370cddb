"""Calls that are joined: the same numbers, in fewer passes over memory."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import CONVS, NORMS, Residual, randomize
from random_plans import few_and_many
from tiled import Call
from torch import nn
from torch.nn import functional as F

import spnb
from spnb.ir.program import Compute
from spnb.kernels.onednn import ACTIVATIONS

PREFIX = "spnb.conv"


def planned(net, size="37x53", batch_size=2, precision="fp32", **options):
    options = {"split_size": 1, "num_spatial_parts": 4} | options
    shape = (batch_size, 4, *map(int, size.split("x")))
    job = spnb.Job(
        randomize(net), input_shapes=[shape], batch_size=batch_size, precision=precision, **options
    )
    return spnb.plan(job)


def calls(plan):
    return [(node.op.split(".", 1)[1], node.args.get("activation")) for node in plan.graph.nodes]


def checked(plan, tolerance=None):
    result = spnb.InProcess(plan).infer()
    assert result.check(tolerance).passed
    return result


def block(channels=4, axes=2):
    return [
        CONVS[axes](channels, channels, 3, padding=1, bias=False),
        NORMS[axes](channels),
        nn.ReLU(),
    ]


def test_a_convolution_takes_its_norm_and_its_activation():
    plan = planned(nn.Sequential(*block(), *block()))
    assert calls(plan) == [("conv2d.fused", "relu")] * 2
    assert [node.path for node in plan.graph.nodes] == ["0", "3"]
    checked(plan)


def test_a_convolution_takes_what_is_added_to_it():
    net = nn.Sequential(*block(), Residual(*block(), *block()[:2]), nn.ReLU())
    plan = planned(net)
    assert calls(plan) == [("conv2d.fused", "relu")] * 3
    assert plan.graph.nodes[-1].operands == (plan.graph.nodes[1].name, plan.graph.nodes[0].name)
    checked(plan)


def test_a_norm_by_itself_is_a_convolution_of_one_position():
    plan = planned(nn.Sequential(nn.MaxPool2d(2), nn.BatchNorm2d(4), nn.ReLU()))
    assert calls(plan) == [("max_pool2d.default", None), ("conv2d.fused", "relu")]
    checked(plan)


@pytest.mark.parametrize(
    "forward",
    [
        lambda layers, x: (layers[0](x), torch.relu(layers[0](x))),
        lambda layers, x: (y := layers[0](x)) * torch.relu(y),
        lambda layers, x: layers[0](x) + layers[0](x).mean((2, 3), keepdim=True),
        lambda layers, x: torch.add(x, layers[0](x), alpha=2),
        lambda layers, x: layers[0](x) + 1.0,
        lambda layers, x: (y := layers[0](x)) + y,
        lambda layers, x: x + layers[0](x),
        lambda layers, x: F.relu(F.relu(layers[0](x)) + x),
        lambda layers, x: layers[0](x) + layers[1](x),
        lambda layers, x: torch.relu(layers[1](x) + F.silu(layers[0](x))) + x,
        lambda layers, x: layers[1](y := layers[0](x)) + y.flatten(1).view_as(y).relu(),
    ],
)
@pytest.mark.parametrize("precision", ["fp32", "fp64"])
def test_what_is_joined_and_what_is_not_is_exact(forward, precision):
    pair = [nn.Conv2d(4, 4, 3, padding=1), nn.Sequential(*block()[:2])]
    checked(planned(Call(forward, *pair), precision=precision, num_spatial_parts=2))


@pytest.mark.slow(but_each=5)
@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf"), 1e38])
@pytest.mark.parametrize("precision", ["fp32", "fp64"])
@pytest.mark.parametrize(
    "layers",
    [
        lambda: [nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)],
        lambda: [nn.Conv2d(4, 4, 3, padding=1), nn.ReLU6()],
        lambda: [nn.Conv2d(4, 4, 3, 2, 1), nn.Hardtanh(-0.5, 0.5)],
        lambda: [nn.Conv2d(4, 4, 1), Call(lambda x: x / x.relu()), nn.Conv2d(4, 4, 3), nn.ReLU()],
        lambda: [nn.ConstantPad2d(1, float("nan")), nn.Conv2d(4, 4, 3), nn.ReLU()],
        lambda: [nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.SiLU()],
    ],
)
def test_nodata_goes_through_as_in_plain_torch(layers, number, precision):
    net, image = randomize(nn.Sequential(*layers())).eval(), torch.randn(2, 4, 24, 20)
    image[:, :, 5, 7] = image[1, :, 11:13, 9:11] = number
    dtype = torch.float64 if precision == "fp64" else torch.float32
    net, image = net.to(dtype), image.to(dtype)
    plan = planned(net, "24x20", num_spatial_parts=4, precision=precision)
    result = spnb.InProcess(plan, progress=False).infer(image)
    with torch.no_grad():
        expected = net(image)
    assert torch.equal(result.output.isnan(), expected.isnan())
    assert torch.allclose(result.output, expected, rtol=1e-4, atol=1e-5, equal_nan=True)
    check = result.check()
    assert check.nan_count == expected.isnan().sum()
    assert (f"{check.nan_count:,} values are NaN in both" in repr(check)) == (check.nan_count > 0)


def test_nothing_is_joined_across_stages():
    layers = [*block()[:2], nn.Conv2d(4, 4, 1), nn.ReLU()]
    plan = planned(nn.Sequential(*layers), split_size=2, balance=(1, 3), num_spatial_parts=2)
    assert calls(plan)[:2] == [("conv2d.fused", None), ("batch_norm.default", None)]
    checked(plan)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_is_rounded_where_the_untiled_network_rounds(precision):
    plan = planned(nn.Sequential(*block()), precision=precision)
    assert all(not node.op.startswith(PREFIX) for node in plan.graph.nodes)


@st.composite
def chains(draw):
    """A chain of blocks that are joined, of any strides, dilations, groups and activations."""
    axes, layers, channels = draw(st.integers(2, 3)), [], 4
    for _ in range(draw(st.integers(1, 4))):
        kernel = draw(st.sampled_from([1, 2, 3, 5]))
        dilation = draw(st.integers(1, 2))
        layers.append(
            CONVS[axes](
                channels,
                channels,
                kernel,
                stride=draw(st.integers(1, 2)),
                padding=draw(st.integers(0, dilation * (kernel - 1))),
                dilation=dilation,
                groups=draw(st.sampled_from([1, 2, 4])),
                bias=draw(st.booleans()),
            )
        )
        if draw(st.booleans()):
            layers.append(NORMS[axes](channels, affine=draw(st.booleans())))
        if draw(st.booleans()):
            odd = CONVS[axes](channels, channels, 3, padding=1)
            layers.append(Residual(odd, NORMS[axes](channels)))
        if draw(st.booleans()):
            kind = draw(st.sampled_from(sorted(ACTIVATIONS)))
            layers.append(Call(getattr(torch.ops.aten, kind)))
    return axes, nn.Sequential(*layers)


@pytest.mark.long
@few_and_many(40)
def test_joined_chains_are_exact(examples):
    @settings(max_examples=examples, deadline=None)
    @given(chains(), st.data())
    def check_one(chain, data):
        axes, net = chain
        sides = st.integers(40, 70) if axes == 2 else st.integers(20, 26)
        size = "x".join(str(data.draw(sides)) for _ in range(axes))
        try:
            net.eval()(torch.zeros(1, 4, *map(int, size.split("x"))))
        except RuntimeError:  # too small for what is left of it
            return
        options = {
            "slice_method": data.draw(st.sampled_from(["square", "vertical", "horizontal"])),
            "num_spatial_parts": data.draw(st.sampled_from([2, 3, 4])),
            "halo_D2": data.draw(st.booleans()),
            "precision": data.draw(st.sampled_from(["fp32", "fp64"])),
        }
        # What is drawn here may cancel: it rounds worse than a network made for something.
        checked(planned(net, size, **options), 1e-10 if options["precision"] == "fp64" else 5e-5)

    check_one()


def test_a_tile_is_computed_before_its_halo_is_here():
    result = checked(planned(nn.Sequential(*block(), *block()), "80x80", num_spatial_parts=4))
    events = result.timings[result.timings["rank"] == 0]
    kinds = events[events.layer.isin(["0", "3"])].kind.tolist()
    first_wait = kinds.index("wait")
    assert kinds[:first_wait].count("compute") == 2
    assert "compute" in kinds[first_wait:]


def overwriting(plan, rank=0):
    steps = plan.rank_plan(rank).programs[plan.micro_batch_sizes[0]][0].steps
    names = [node.name for node in plan.rank_plan(rank).nodes]
    return [names[s.node] for s in steps if isinstance(s, Compute) and s.overwrites]


def test_a_sum_takes_the_place_of_what_nobody_reads_any_more():
    def layers(last):
        branch = nn.Conv2d(4, 4, last, padding=last // 2), nn.Conv2d(4, 4, 1)
        return [*block(), Residual(*branch), nn.Conv2d(4, 4, 1)]

    plan = planned(nn.Sequential(*layers(1)))
    assert overwriting(plan) == ["add"]
    checked(plan)
    plan = planned(nn.Sequential(*layers(3)))  # what is sent to the neighbours is a copy
    assert overwriting(plan) == ["add"]
    checked(plan)


@pytest.mark.parametrize(
    "forward",
    [
        lambda layers, x: (layers[1](y := layers[0](x)) + y) * y,
        lambda layers, x: (layers[1](y := layers[0](x)) + y, y),
        lambda layers, x: (layers[1](y := layers[0](x)) + y) * y.permute(0, 1, 2, 3),
        lambda layers, x: layers[1](x) + x,
    ],
)
def test_what_is_read_again_keeps_its_place(forward):
    plan = planned(Call(forward, nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)))
    assert overwriting(plan) == []
    checked(plan)


def test_sums_over_an_image_are_as_exact_as_untiled():
    net = nn.Sequential(*block(), nn.GroupNorm(2, 4), nn.AdaptiveAvgPool2d(1))
    checked(planned(net, "1001x1003", batch_size=1))
