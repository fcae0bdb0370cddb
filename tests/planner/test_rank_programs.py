"""Programs of ranks: every message has its other end, every value is freed."""

from networks import Residual
from planning import WHOLE, conv, grid
from running import planned
from torch import nn

from spnb.ir.program import Compute, Free, Receive, Send
from spnb.ir.tiling import Tiling


def test_every_send_has_its_receive_in_the_programs():
    net = nn.Sequential(
        conv(), Residual(conv(), conv(kernel=7)), nn.MaxPool2d(3, 2), conv(), conv()
    )
    tilings = [grid("square", 6), grid("vertical", 2), Tiling.even((2, 1, 1))]
    plan = planned(net, (5, 4, 41, 53), tilings, parts=2, balance=[2, 2, 1])
    for images in set(plan.micro_batch_sizes):
        sent, received = [], []
        for rank in range(plan.num_ranks):
            for step in (s for each in plan.programs(rank, images) for s in each.steps):
                if isinstance(step, Send):
                    sent += [(step.tag, t.source, t.target, t.region) for t in step.transfers]
                elif isinstance(step, Receive):
                    received += [(step.tag, t.source, t.target, t.region) for t in step.transfers]
        between = lambda found: sorted(repr(f) for f in found if -1 not in f[1:3])  # noqa: E731
        assert between(sent) == between(received)
        assert len(between(sent)) == len(set(between(sent))) > 0


def test_values_are_freed_after_their_last_use():
    net = nn.Sequential(conv(), Residual(conv(), nn.ReLU(), conv()), conv())
    plan = planned(net, (1, 4, 32, 32), [grid("square", 4), WHOLE])
    for rank in range(plan.num_ranks):
        held, nodes = set(), plan.stage_of(rank).nodes
        (program,) = plan.programs(rank, 1)
        for step in program.steps:
            if isinstance(step, Compute):
                assert set(nodes[step.node].operands) <= held
                held.add(nodes[step.node].name)
            elif isinstance(step, Receive):
                held.add(step.value)
            elif isinstance(step, Free):
                assert set(step.values) <= held
                held -= set(step.values)
        assert not held
