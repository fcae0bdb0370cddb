"""Plans: what they refuse, what they move, and how large they grow."""

import pickle
import subprocess
import sys

import pytest
import torch
from networks import Residual
from running import assert_equal, planned, run
from torch import nn

import spnb
from spnb.analysis.halos import halos, widest_halo
from spnb.analysis.memory import activation_bytes
from spnb.analysis.traffic import traffic
from spnb.capture.export import capture
from spnb.errors import CaptureError, PlanError
from spnb.ir.blocks import blocks_of
from spnb.ir.program import Compute, Free, Receive, Send
from spnb.ir.region import Tiling, grid_of

WHOLE = Tiling.even((1, 1, 1))


def grid(method, tiles):
    return Tiling.even((1, *grid_of(method, tiles, 2)))


def conv(channels=4, kernel=3):
    return nn.Conv2d(channels, channels, kernel, padding=kernel // 2)


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


def test_a_rank_knows_only_its_own():
    plan = spnb.plan(spnb.Job("resnet20_v1", image_size=64, batch_size=2, num_spatial_parts=4))
    weights = [set(plan.rank_plan(rank).weights) for rank in range(5)]
    assert weights[0] == weights[3]
    assert not weights[0] & weights[4]
    small = len(pickle.dumps(plan.rank_plan(0)))
    many = spnb.plan(spnb.Job("resnet20_v1", image_size=512, batch_size=2, num_spatial_parts=256))
    assert len(pickle.dumps(many.rank_plan(17))) < 2.5 * small  # more neighbours, not more ranks


def test_blocks_are_those_of_the_author():
    def names(net, shape):
        graph = capture(net, shape, torch.float32)
        assert blocks_of(graph.nodes, net) == graph.blocks
        return [block.path for block in graph.blocks]

    class Backbone(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = conv(3, 1)
            self.layers = nn.ModuleList([Residual(conv(3), nn.ReLU(), conv(3)) for _ in range(3)])

        def forward(self, x):
            x = self.stem(x)
            for layer in self.layers:
                x = layer(x)
            return x

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone, self.head = Backbone(), nn.Linear(3, 2)

        def forward(self, x):
            return self.head(self.backbone(x).mean((2, 3)))

    assert names(Wrapped(), (1, 3, 8, 8)) == [
        "backbone.stem",
        "backbone.layers.0",
        "backbone.layers.1",
        "backbone.layers.2",
        "head",
    ]


def test_lists_and_long_sequences_are_opened_and_a_conv_with_its_norm_is_not():
    class Vgg(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(conv(3), nn.ReLU(), conv(3), nn.MaxPool2d(2))
            self.more = nn.ModuleList(nn.Sequential(conv(3), nn.BatchNorm2d(3)) for _ in range(2))

        def forward(self, x):
            x = self.features(x)
            for layer in self.more:
                x = layer(x)
            return x

    graph = capture(Vgg(), (1, 3, 8, 8), torch.float32)
    assert [block.path for block in graph.blocks] == [
        "features.0", "features.1", "features.2", "features.3", "more.0", "more.1",
    ]  # fmt: skip


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


class Head(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.body, self.tail, self.function = conv(), conv(), function

    def forward(self, x):
        return self.tail(self.function(self.body(x)))


def refusal(*args, **options):
    with pytest.raises((PlanError, CaptureError)) as caught:
        planned(*args, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_refuses_what_needs_the_whole_extent():
    net = Head(lambda x: x.cumsum(dim=3))
    message = refusal(net, (1, 4, 12, 20), [grid("square", 4), WHOLE], balance=[1, 1])
    assert message == (
        "stage 0, forward (cumsum): cumsum, used like this, needs the whole extent 12×20 of its"
        " input, but the stage is cut into 2×2 tiles: gather it on every tile (allow_gather=True,"
        " --allow-gather), or"
        " let the tiled stages end before this layer: it is in the first of 2 blocks, so no tiled"
        " stage fits; a network of finer modules, or spatial_size=0"
        " (--spatial-size 0), would do"
    )
    net = nn.Sequential(
        conv(), nn.Sequential(nn.Flatten(), nn.Linear(4 * 12 * 20, 4)), nn.Linear(4, 2)
    )
    message = refusal(net, (1, 4, 12, 20), [grid("square", 4), WHOLE], balance=[2, 1])
    assert "stage 0, 1.1 (linear)" in message
    assert "at most 1 of the 3 blocks can be tiled: balance 1,2" in message
    message = refusal(net, (1, 4, 12, 20), [grid("square", 4)])
    assert "add an untiled stage (split_size=2, --split-size 2)" in message


def test_refuses_an_unknown_operator_by_name():
    class Fourier(nn.Module):
        def forward(self, x):
            return torch.fft.fftn(x).real

    net = nn.Sequential(conv(), nn.Sequential(conv(), Fourier()), conv())
    message = refusal(net, (1, 4, 12, 20), [grid("vertical", 2), WHOLE], balance=[2, 1])
    assert "stage 0, 1.1 (fft_fftn)" in message
    assert "there is no tiling rule for the operator fft_fftn" in message
    assert "at most 1 of the 3 blocks can be tiled" in message
    message = refusal(net, (4, 4, 12, 20), [grid("vertical", 2), WHOLE], parts=2)
    assert "it is not known that fft_fftn, used like this, treats the 4 images" in message
    assert "parts=1" in message


class Cumulated(nn.Module):
    def forward(self, x):
        return x.cumsum(2)


def test_an_even_balance_puts_the_cut_before_what_cannot_be_tiled():
    net = nn.Sequential(conv(), Cumulated(), conv(), conv(), conv(), conv())
    plan = planned(net, (1, 4, 12, 20), [grid("square", 4), WHOLE])
    assert [stage.blocks for stage in plan.stages] == [(0, 1), (1, 6)]


def test_refuses_more_tiles_than_pixels():
    with pytest.raises(PlanError, match="stage 0: an image of 3×3 pixels cannot be cut into 2×4"):
        spnb.plan(spnb.Job("resnet20_v1", image_size=3, num_spatial_parts=8))


@pytest.mark.parametrize(
    ("balance", "message"),
    [
        ([1, 1, 2], "has 3 entries with the sum 4, but there are 2 stages and 4 blocks"),
        ([1, 2], "has 2 entries with the sum 3, but there are 2 stages and 4 blocks"),
        ([4, 0], "give 2 positive numbers that add up to 4"),
    ],
)
def test_refuses_a_balance_that_does_not_add_up(balance, message):
    net = nn.Sequential(conv(), conv(), conv(), conv())
    assert message in refusal(net, (1, 4, 16, 16), [grid("square", 4), WHOLE], balance=balance)


def test_refuses_more_stages_than_blocks_and_more_slices_than_images():
    net = nn.Sequential(conv(), conv())
    assert "3 stages, but the network has 2 blocks" in refusal(net, (1, 4, 16, 16), [WHOLE] * 3)
    message = refusal(net, (5, 4, 16, 16), [WHOLE, Tiling.even((2, 1, 1))], parts=3)
    assert "2 ranks share a batch (--local-DP), but a micro-batch has only 1 of the 5" in message


def test_refuses_what_changes_its_own_buffer_and_what_makes_noise():
    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x):
            self.count += 1
            return x * self.count

    message = refusal(nn.Sequential(conv(), Counter()), (1, 4, 8, 8), [WHOLE])
    assert "changes its buffer 1.count in its forward" in message
    message = refusal(Head(lambda x: x + torch.rand(8, 8)), (1, 4, 8, 8), [WHOLE])
    assert "forward (rand) makes random numbers" in message
    message = refusal(Head(torch.nn.functional.dropout), (1, 4, 8, 8), [WHOLE])
    assert "forward (dropout) makes random numbers" in message


def test_refuses_what_torch_cannot_capture_with_its_reason():
    class Branch(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    assert "Branch cannot run or be captured at input shape (1, 4, 8, 8)" in refusal(
        Branch(), (1, 4, 8, 8), [WHOLE]
    )
    assert "expected input[1, 3, 8, 8] to have 4 channels" in refusal(conv(), (1, 3, 8, 8), [WHOLE])


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


@pytest.mark.long
def test_4096_tiles_of_a_65536_square_image_take_little_memory():
    done = subprocess.run(
        [sys.executable, "-c", BIG], capture_output=True, text=True, timeout=120, check=True
    )
    assert int(done.stdout.split("MiB")[-1]) < 2048
    assert "64×64" in done.stdout


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
