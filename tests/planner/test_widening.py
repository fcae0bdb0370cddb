import pytest
import torch
from networks import randomize
from running import assert_equal, planned, run
from tiled import noise
from torch import nn

from spnb.ir.exchange import region_at
from spnb.ir.program import Compute
from spnb.ir.tiling import Tiling

ALL = 1 << 30


class Residual(nn.Module):
    def __init__(self, channels, **options):
        super().__init__()
        self.first, self.second = (
            nn.Conv2d(channels, channels, 3, padding="same", **options) for _ in range(2)
        )

    def forward(self, x):
        return (x + self.second(self.first(x).relu())).relu()


def network():
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, padding=2),
        Residual(8),
        nn.Conv2d(8, 8, 3, stride=2, padding=1),
        nn.Softplus(),
        Residual(8, dilation=2),
        nn.Conv2d(8, 4, 1),
        nn.Conv2d(4, 4, 4, padding="same"),
        nn.Conv2d(4, 2, 3, padding=1),
    )


def widened(plan):
    """Each call that computes more than its layout asks for, on every rank."""
    found = []
    for rank in range(plan.num_ranks):
        stage, images = plan.stage_of(rank), max(plan.micro_batch_sizes)
        computed = plan.stage_needs[stage.index, images].computed
        for program in plan.programs(rank, images):
            for step in program.steps:
                if isinstance(step, Compute):
                    node = stage.nodes[step.node]
                    asked = region_at(computed[node.name], stage.team.position(rank))
                    assert asked in step.region
                    if step.region != asked:
                        found.append(node.label)
    return found


@pytest.mark.parametrize("grid", [(2, 1), (1, 2), (2, 2), (3, 1), (1, 3)])
@pytest.mark.parametrize("batch", [1, 2])
def test_tiles_with_fused_halos_compute_more_in_place_of_a_copy(grid, batch):
    net, x = randomize(network()).double().eval(), noise(batch, 3, 83, 78)
    plan = planned(net, tuple(x.shape), [Tiling.even((1, *grid))], fused=ALL)
    assert len(set(widened(plan))) >= 5
    with torch.no_grad():
        assert_equal(run(plan, net, x)[0], net(x))


def test_without_fused_halos_a_tile_computes_what_it_owns():
    net = randomize(network()).double().eval()
    plan = planned(net, (1, 3, 83, 78), [Tiling.even((1, 2, 2))])
    assert not widened(plan)


def test_what_the_host_gets_is_no_wider():
    net = randomize(nn.Sequential(nn.Conv2d(3, 2, 3, padding=1))).double().eval()
    plan = planned(net, (1, 3, 83, 78), [Tiling.even((1, 2, 2))], fused=ALL)
    assert not widened(plan)
