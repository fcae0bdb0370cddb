"""Weights are in the order that each call needs before a run, and are not reordered within one."""

import ctypes

import pytest
import torch
from torch import nn
from torch.backends import mkldnn

import spnb
from spnb.ir.program import Compute
from spnb.ir.region import Region
from spnb.kernels.onednn import FusedConvolution, fuses
from spnb.rules import rule_of
from spnb.runtime.prepared_weights import PreparedWeights

WIDE_PATCHES = {"patches": 4, "halo_D2": True, "fused_layers": "all"}
FUSED = fuses(torch.ones(1, 1, 1, 1))


def network(stride=1):
    torch.manual_seed(0)
    layers = [nn.Conv2d(16, 128, 1), nn.ReLU(), nn.Conv2d(128, 128, 3, stride, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(128, 128, 3, padding=1), nn.ReLU())


@pytest.mark.slow(but_each=5)
@pytest.mark.skipif(not FUSED, reason="oneDNN computes no fused convolutions here")
@pytest.mark.parametrize("size", ["32x32", "17x23", "96x64"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("options", [{"slice_method": "vertical"}, {"parts": 2}, WIDE_PATCHES])
def test_no_weight_is_reordered_in_a_run(size, stride, options, capfd):
    height, width = map(int, size.split("x"))
    given = {"num_spatial_parts": 4, "batch_size": 3, "split_size": 1, **options}
    job = spnb.Job(network(stride), input_shapes=f"3x16x{height}x{width}", **given)
    session = spnb.InProcess(spnb.plan(job), progress=False)
    x = torch.randn(3, 16, height, width)
    assert session.infer(x).check().passed
    capfd.readouterr()
    with mkldnn.verbose(mkldnn.VERBOSE_ON):
        session.infer(x)
    lines = capfd.readouterr().out.splitlines()
    assert sum("exec,cpu,convolution" in line for line in lines) >= 3 * 4
    assert not [line for line in lines if "exec,cpu,reorder" in line and "x3x3" in line]


@pytest.mark.skipif(not FUSED, reason="oneDNN computes no fused convolutions here")
def test_a_weight_is_kept_once_for_each_order():
    weight = torch.randn(128, 128, 3, 3)
    convolution = FusedConvolution("conv2d", (1, 1), (0, 0), (1, 1))
    first = convolution.reorder(weight, (1, 128, 18, 18))
    assert convolution.reorder(first, (1, 128, 18, 18)) is first
    for width in range(3, 40):  # some of them prefer another order, which may be found here or not
        other = convolution.reorder(first, (1, 128, 18, width))
        assert torch.equal(other.to_dense(), weight)


def test_weights_of_a_call_are_those_of_its_shape():
    plan = spnb.plan(
        spnb.Job(network(), input_shapes="1x16x24x24", batch_size=1, num_spatial_parts=2)
    )
    rank_plan = plan.rank_plan(1)
    ((program,),) = rank_plan.programs.values()
    rules = [rule_of(node) for node in rank_plan.nodes]
    tensors = {w.name: torch.randn(w.shape) for node in rank_plan.nodes for w in node.weights}
    prepared = PreparedWeights(rank_plan.nodes, rules, tensors, program.steps)
    step = next(
        s for s in program.steps if isinstance(s, Compute) and rank_plan.nodes[s.node].weights
    )
    found = prepared.of(step.node, step.needs)
    assert prepared.of(step.node, step.needs) is found
    thin = Region((*step.needs[0].spans[:-1], (0, 3)))
    for weights in (found, prepared.of(step.node, [thin])):
        for name, weight in weights.items():
            dense = weight.to_dense() if weight.is_mkldnn else weight
            assert torch.equal(dense, tensors[name])


def content(weight):
    """The bytes of a weight as they lie in memory."""
    if not weight.is_mkldnn:
        return weight.numpy().tobytes()
    of_mkldnn = torch.ops.mkldnn
    return ctypes.string_at(of_mkldnn.data_ptr(weight), of_mkldnn._nbytes(weight))


def test_shapes_that_ask_for_one_order_share_a_weight():
    plan = spnb.plan("unet", image_size=64, batch_size=1, stages=1, tiles=4)
    rank_plan = plan.rank_plan(0)
    ((program,),) = rank_plan.programs.values()
    rules = [rule_of(node) for node in rank_plan.nodes]
    tensors = {w.name: torch.randn(w.shape) for node in rank_plan.nodes for w in node.weights}
    prepared = PreparedWeights(rank_plan.nodes, rules, tensors, program.steps)
    sizes = [3, 5, 8, 9, 12, 17, 24, 33, 48, 64, 65, 96]
    for step in program.steps:
        if not isinstance(step, Compute) or not rank_plan.nodes[step.node].weights:
            continue
        batch = step.needs[0].spans[0]
        shapes = [Region((batch, (0, rows), (0, n))) for rows in sizes for n in sizes]
        weights = [prepared.of(step.node, [shape]) for shape in shapes]
        for name in weights[0]:
            kept = {id(each[name]): each[name] for each in weights}
            assert len({content(weight) for weight in kept.values()}) == len(kept)
