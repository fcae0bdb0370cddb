"""What moves back is the adjoint of what moved: ⟨Fx, y⟩ = ⟨x, F*y⟩ for every kind of exchange."""

import pytest
import torch
from running import planned_for_training as planned
from tiled import Call
from torch import nn
from torch.nn import functional as F

from spnb.ir.exchange import HOST, region_at
from spnb.ir.program import Program, Send, receive_step
from spnb.ir.tiling import Tiling
from spnb.training.tapes.tape import Tape
from spnb.training.tapes.tape_values import PieceReader
from spnb.training.tapes.taped_program import TapedProgram
from spnb.transport.local import World


def conv(a=4, b=4, kernel=5):
    return nn.Conv2d(a, b, kernel, padding=kernel // 2)


def grid(*tiles):
    return Tiling.even((1, *tiles))


NETS = {
    "halo": (nn.Sequential(conv(3), conv(), conv()), [grid(2, 3), grid(3, 2)], 0),
    "fused": (nn.Sequential(conv(3), conv(), conv()), [grid(3, 3), grid(1, 1)], 1),
    "batch": (nn.Sequential(conv(3), conv(), conv()), [grid(2, 2), Tiling.even((3, 1, 1))], 0),
    "merge": (nn.Sequential(conv(3), nn.GroupNorm(2, 4), conv()), [grid(2, 2)], 0),
    "norm": (
        nn.Sequential(conv(3), nn.BatchNorm2d(4), conv()),
        [grid(2, 3), Tiling.even((2, 1, 1))],
        0,
    ),
    "gather": (Call(lambda layers, x: layers[0](x).sort(3)[0], conv(3)), [grid(2, 3)], 0),
    "ends": (Call(lambda layers, x: layers[0](x).roll(3, 3), conv(3)), [grid(1, 3)], 0),
    "smaller": (
        Call(lambda layers, x: F.interpolate(layers[0](x), size=(7, 5)), conv(3)),
        [grid(3, 2)],
        0,
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_moving_back_is_the_adjoint(name):
    net, tilings, fused = NETS[name]
    gathering = {"allow_gather": name == "gather"}
    plan = planned(net.double(), (3, 3, 22, 19), tilings, 1, fused, **gathering)
    found = set()
    for exchange in plan.exchanges[3]:
        if HOST in (exchange.source.ranks[0], exchange.target.ranks[0]):
            continue
        check(plan, exchange)
        found.add(exchange.kind)
    wanted = {
        "gather": {"gather"},
        "merge": {"merge"},
        "norm": {"merge", "hand-over"},
        "batch": {"hand-over"},
    }
    assert found >= wanted.get(name, {"halo"})


def check(plan, exchange):
    value = exchange.value
    axes, dtype = plan.graph.axes[value], plan.graph.dtype_of(value)
    generator = torch.Generator().manual_seed(exchange.tag)

    def noise(region):
        found = torch.randn(axes.local_shape(region), generator=generator, dtype=dtype)
        return found * (not region.empty)  # a single position has its shape even where it is not

    ranks = range(plan.num_ranks)
    x = {
        rank: noise(region_at(exchange.has, exchange.source.position(rank)))
        for rank in ranks
        if rank in exchange.source.ranks
    }
    y = {rank: noise(exchange.need(rank)) for rank in ranks if rank in exchange.target.ranks}

    def work(transport):
        rank, steps = transport.rank, []
        if rank in x:
            kind = exchange.kind
            steps.append(Send(exchange.tag, value, kind, exchange.sends(rank), axes))
        if rank in y:
            steps.append(receive_step(exchange, rank, axes, dtype))
        tape = Tape(TapedProgram(plan.rank_plan(rank), [], Program(tuple(steps))), {}, transport)
        if rank in x:
            own = region_at(exchange.has, exchange.source.position(rank))
            tape.values.hold(value, own, x[rank])
        tape.forward(lambda name, region: None)
        there = None
        if rank in y:
            there = PieceReader(value, exchange.need(rank), axes).read(tape.values)
        if rank in y:
            tape.values.gradients[value] = [y[rank]]
        tape.backward([], lambda name, gradient: None)
        back = tape.values.gradients.get(value)
        return there, back and back[0]

    moved = World(plan.num_ranks, deadline=30).run(work)
    forward = sum(float((moved[rank][0] * y[rank]).sum()) for rank in y)
    backward = sum(
        float((x[rank] * moved[rank][1]).sum()) for rank in x if moved[rank][1] is not None
    )
    assert forward == pytest.approx(backward, rel=1e-12)
    assert forward != 0
