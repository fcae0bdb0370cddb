"""Autograd records what leads to a parameter that is trained, and nothing else."""

import pytest
from autograd_memory import held_bytes
from networks import conv
from running import planned_for_training as planned
from tiled import noise
from torch import nn

from spnb.ir.region import Region
from spnb.ir.tiling import Tiling
from spnb.ir.weights import tensors_of
from spnb.rules import rule_of
from spnb.training.tapes.differentiated import values_with_gradient
from spnb.training.tapes.tape import Tape
from spnb.training.tapes.taped_program import TapedProgram
from spnb.transport.local import World

TILES = [Tiling.even((1, 2, 1)), Tiling.even((1, 1, 1))]


def weights_of(net, rank_plan, graph, frozen):
    trained = {n for n, _ in net.named_parameters()} - set(frozen)
    weights = tensors_of(net, rank_plan.weights, graph)
    return {name: w.clone().requires_grad_(name in trained) for name, w in weights.items()}


def network():
    return nn.Sequential(conv(), nn.ReLU(), conv(), nn.ReLU(), conv()).double()


FROZEN = {
    "nothing": [],
    "the first layer": ["0.weight", "0.bias"],
    "the first two": ["0.weight", "0.bias", "2.weight", "2.bias"],
}


@pytest.mark.parametrize(("frozen", "without"), [("nothing", 1), ("the first layer", 3)])
def test_values_before_the_first_trained_layer_have_no_gradient(frozen, without):
    net = network()
    plan = planned(net, (1, 4, 12, 12), TILES[:1])
    rank_plan = plan.rank_plan(0)
    (program,) = rank_plan.programs[1]
    weights = weights_of(net, rank_plan, plan.graph, FROZEN[frozen])
    names = {*plan.graph.inputs, *(node.name for node in rank_plan.nodes)}
    found = values_with_gradient(program, rank_plan.nodes, weights, of_inputs=False)
    assert len(names - found) == without
    assert values_with_gradient(program, rank_plan.nodes, weights, of_inputs=True) == names


def test_a_value_of_another_rank_may_have_a_gradient():
    net = network()
    plan = planned(net, (1, 4, 12, 12), TILES, balance=(2, 3))
    rank_plan = plan.rank_plan(2)
    (program,) = rank_plan.programs[1]
    weights = weights_of(net, rank_plan, plan.graph, dict(net.named_parameters()))
    found = values_with_gradient(program, rank_plan.nodes, weights, of_inputs=False)
    assert {node.name for node in rank_plan.nodes} <= found


@pytest.mark.parametrize("frozen", FROZEN)
def test_autograd_holds_no_values_of_frozen_layers(frozen):
    net, x = network(), noise(1, 4, 16, 16)
    plan = planned(net, (1, 4, 16, 16), TILES[:1])

    def work(transport):
        rank_plan = plan.rank_plan(transport.rank)
        weights = weights_of(net, rank_plan, plan.graph, FROZEN[frozen])
        (program,) = rank_plan.programs[1]
        shared = TapedProgram(rank_plan, [rule_of(n) for n in rank_plan.nodes], program)
        tape = Tape(shared, weights, transport)
        whole = Region.whole(plan.graph.extent(*plan.graph.inputs))
        tape.forward(lambda value, region: plan.graph.axes[value].piece(x, whole, region))
        transport.flush()
        nodes = [node for call in tape._calls.values() for node in call.graph.nodes]
        wanted = [k for call in tape._calls.values() for each in call.operands for k in each]
        return held_bytes(nodes, weights.values()), len(wanted) - wanted.count(None)

    # Each trained convolution saves a tile with its halo, and with padding along the cut.
    tile = 4 * 10 * 16 * 8
    trained = 3 - len(FROZEN[frozen]) // 2
    for held, of_operands in World(plan.num_ranks, deadline=30).run(work):
        assert held == trained * tile
        assert of_operands == 2 * (trained - 1)  # the operands of convolutions and their ReLUs
