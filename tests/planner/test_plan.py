"""Plans: what they move, what each rank is given, and how large they grow."""

import pickle
import subprocess
import sys

import pytest
import torch
from networks import Residual
from planning import WHOLE, conv, grid
from running import assert_equal, planned, run
from torch import nn

import spnb
from spnb.analysis.halos import halos, widest_halo
from spnb.analysis.memory import activation_bytes
from spnb.analysis.traffic import traffic


@pytest.mark.parametrize("method", ["square", "vertical", "horizontal"])
@pytest.mark.parametrize("tiles", [2, 4, 6, 9])
def test_bytes_are_the_geometric_minimum(method, tiles):
    """A 3×3 convolution needs one position around each tile, inside the image, and no more."""
    net = nn.Sequential(conv(), conv(), conv(), conv())
    height, width = 50, 63
    plan = planned(net, (2, 4, height, width), [grid(method, tiles), WHOLE], balance=[3, 1])
    team = plan.stages[0].team
    perimeter = 0
    for rank in team.ranks:
        (top, bottom), (left, right) = team.tiling.region((1, height, width), rank).spans[1:]
        tall = bottom - top + (top > 0) + (bottom < height)
        wide = right - left + (left > 0) + (right < width)
        perimeter += tall * wide - (bottom - top) * (right - left)
    expected = perimeter * 4 * 8 * 2  # channels, fp64, images
    exchanges = [e for e in plan.exchanges[2] if e.kind == "halo"]
    assert len(exchanges) == 2  # the first convolution reads its halo with the image
    for exchange in exchanges:
        assert sum(exchange.sent(rank)[1] for rank in team.ranks) == expected


def test_a_fused_halo_is_exchanged_once_for_its_blocks():
    net = nn.Sequential(*[Residual(conv(), nn.ReLU(), conv()) for _ in range(6)])
    count = {}
    for fused in (0, 1, 2, 3, 100):
        plan = planned(net, (1, 4, 64, 64), [grid("square", 4), WHOLE], fused=fused, balance=[5, 1])
        count[fused] = sum(e.kind == "halo" for e in plan.exchanges[1])
    assert count == {0: 9, 1: 4, 2: 2, 3: 1, 100: 0}
    assert widest_halo(plan, 0).depth == (10, 10)
    assert halos(plan, 0)[0].layer == "the image"


@pytest.mark.long
def test_a_rank_knows_only_its_own():
    plan = spnb.plan(spnb.Job("resnet20_v1", image_size=64, batch_size=2, num_spatial_parts=4))
    weights = [set(plan.rank_plan(rank).weights) for rank in range(5)]
    assert weights[0] == weights[3]
    assert not weights[0] & weights[4]
    small = len(pickle.dumps(plan.rank_plan(0)))
    many = spnb.plan(spnb.Job("resnet20_v1", image_size=512, batch_size=2, num_spatial_parts=256))
    assert len(pickle.dumps(many.rank_plan(17))) < 2.5 * small  # more neighbours, not more ranks


def test_an_untiled_stage_runs_what_has_no_rule_or_more_axes():
    class Odd(nn.Module):
        def forward(self, x):
            y = torch.stack([x, x.flip(3)]).sum(0)
            table = torch.arange(x.shape[-1], dtype=x.dtype)
            return torch.fft.fft(y + table).real, y.sum()

    net = nn.Sequential(conv(), Odd()).double()
    plan = planned(net, (2, 4, 9, 10), [grid("square", 4), WHOLE], balance=[1, 1])
    x = torch.randn(2, 4, 9, 10).double()
    with torch.no_grad():
        assert_equal(run(plan, net, x)[0], net(x))


@pytest.mark.long
def test_prints_a_table_and_predicts():
    plan = spnb.plan(spnb.Job("resnet29_v2", image_size=128, batch_size=4, parts=2))
    lines = str(plan).splitlines()
    assert f" {plan.totals.exchanges} exchanges, {plan.totals.messages} messages" in lines[1]
    assert lines[2].split() == [
        "stage", "blocks", "grid", "ranks", "tile", "messages", "sent", "weights", "activations",
    ]  # fmt: skip
    assert lines[3].split()[:5] == ["0", "0-10", "2×2", "0-3", "64×64"]
    assert activation_bytes(plan, 0) >= 3 * 2 * 64 * 64 * 64 * 4 // 2
    assert traffic(plan, 4) == (0, 0)


BIG = """
import spnb
from spnb.runtime import process_memory
from spnb.analysis.traffic import traffic
plan = spnb.plan(spnb.Job("resnet", image_size=65536, batch_size=1, num_spatial_parts=4096))
assert plan.num_ranks == 4097
print(plan)
total = sum(traffic(plan, rank)[1] for rank in range(4097))
assert total > 1e9
assert len(plan.rank_plan(2000).programs[1][0].steps) > 300
print("MiB", process_memory.peak_bytes() // 2**20)
"""


@pytest.mark.slow
@pytest.mark.long
def test_4096_tiles_of_a_65536_square_image_take_little_memory():
    done = subprocess.run(
        [sys.executable, "-c", BIG], capture_output=True, text=True, timeout=120, check=True
    )
    assert int(done.stdout.split("MiB")[-1]) < 2048
    assert "64×64" in done.stdout


@pytest.mark.long
def test_the_pure_floor_imports_neither_mpi_nor_ipyparallel():
    code = (
        "import sys, spnb, spnb.analysis.memory, spnb.analysis.traffic, spnb.ir.schedule\n"
        "import spnb.driver.session\n"
        "print([m for m in ('mpi4py', 'ipyparallel') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_ranks_import_the_networks_module_for_its_own_operators_only():
    job = spnb.Job("unet", image_size=32, batch_size=1, split_size=1)
    assert spnb.plan(job).rank_plan(0).imports == ()
    merged = planned(nn.Sequential(conv(), nn.GroupNorm(2, 4)), (1, 4, 9, 9), [grid("square", 4)])
    assert any(node.op.startswith("spnb.") for node in merged.stages[0].nodes)
    assert merged.rank_plan(0).imports == ()
