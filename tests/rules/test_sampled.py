"""Samples at constant coordinates: each tile receives the box that its samples read."""

import itertools

import pytest
import torch
from running import planned
from tiled import Call, check, check_tiled, noise
from torch import nn
from torch.nn import functional as F
from training_steps import check as check_training
from training_steps import grid

import spnb
from spnb.errors import PlanError
from spnb.ir.tiling import Tiling
from spnb.rules.sampling import Sampling, weighted

TURN = ((0.8, 0.4, 0.1), (-0.3, 0.9, -0.2))
FAR = ((2.5, 1.3, 0.4), (-1.2, 2.9, -0.6))


def warped(matrix, size=(8, 11), align_corners=False, **how):
    """A network that takes samples of an image at coordinates that an affine map says."""

    def net(x):
        theta = torch.tensor(matrix, dtype=x.dtype).expand(x.shape[0], -1, -1)
        places = F.affine_grid(theta, [x.shape[0], 1, *size], align_corners=align_corners)
        return F.grid_sample(x, places, align_corners=align_corners, **how)

    return Call(net)


@pytest.mark.slow(but_each=4)
@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
def test_samples_of_a_warped_image(mode, padding, align_corners):
    how = {"mode": mode, "padding_mode": padding, "align_corners": align_corners}
    for matrix in (TURN, FAR):
        for plan in check_tiled(warped(matrix, **how), (2, 3, 8, 11), grids=[(2, 2)]):
            assert not plan.gathered


def test_samples_of_a_larger_image_and_of_a_volume():
    for size in ((16, 22), (1, 5)):
        check(warped(TURN, size), (1, 2, 8, 11))
    cube = torch.eye(4)[:3] * 0.9
    assert_not_gathered(warped(cube.tolist(), (4, 5, 6)), (1, 2, 5, 6, 4), [(2, 1, 2)])


def test_coordinates_of_each_image_and_those_outside():
    def of_each(x):
        places = torch.linspace(-1, 1, 2 * 5 * 6 * 2, dtype=x.dtype).reshape(2, 5, 6, 2)
        outside = torch.full_like(places, 3.0)
        return F.grid_sample(x, places) + F.grid_sample(x, outside)

    assert_not_gathered(Call(of_each), (2, 3, 8, 11), [(2, 2), (1, 3)])


def test_coordinates_of_a_large_image_are_cut():
    def net(x):
        rows = torch.linspace(-1, 1, 130, dtype=x.dtype)[:, None] + torch.zeros(130, 150).to(x)
        columns = torch.linspace(-1, 1, 150, dtype=x.dtype) + torch.zeros(130, 150).to(x)
        return F.grid_sample(x, torch.stack([rows, columns * rows], -1)[None] * 0.9)

    (plan, *_) = assert_not_gathered(Call(net), (1, 1, 130, 150), [(2, 2)])
    assert any(node.op == "spnb.constant.default" for node in plan.graph.nodes)


def assert_not_gathered(net, shape, grids):
    plans = check_tiled(net, shape, grids=grids)
    assert not any(plan.gathered for plan in plans)
    return plans


def test_images_are_sampled_in_micro_batches():
    check_tiled(warped(TURN), (4, 2, 8, 11), grids=[(2, 2)], parts=2)


def test_a_tile_receives_only_what_its_samples_read():
    identity = warped(((1, 0, 0), (0, 1, 0)), (64, 64))
    plan = planned(Call(lambda x: identity(x + 1)), [(1, 1, 64, 64)], [Tiling.even((1, 2, 2))])
    moved = sum(e.total[1] for e in plan.exchanges[1] if e.kind == "halo")
    assert 0 < moved <= 8 * (4 * 2 * 33 * 2)


@pytest.mark.parametrize("mode, padding, align", itertools.product(range(3), range(3), [0, 1]))
def test_positions_and_shares_are_those_of_pytorch(mode, padding, align):
    x, places = noise(1, 1, 300, 400).float(), torch.rand(1, 20, 20, 2) * 4 - 2
    how = Sampling(mode, padding, bool(align), (300, 400))
    found = weighted(x, how.taps(places), [0, 0])
    wanted = torch.grid_sampler(x, places, mode, padding, bool(align))
    assert float((found - wanted).abs().max()) < 1e-5


def test_gradients_of_samples():
    net = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), warped(TURN, mode="bicubic")).double()
    x, target = noise(1, 2, 8, 11), noise(1, 2, 8, 11, seed=2)
    check_training(net, x, target, [grid(2, 2)], steps=1)


def test_coordinates_in_half_precision_are_rounded_by_pytorch_only():
    with pytest.raises(PlanError, match="grid_sampler, used like this, needs the whole extent"):
        planned(warped(TURN), [(1, 2, 8, 11)], [Tiling.even((1, 2, 2))], dtype=torch.float16)


class Warp(nn.Module):
    """Samples at coordinates, and rows by numbers, that are buffers."""

    def __init__(self, angle=0.3):
        super().__init__()
        turn = torch.tensor(((1.0, angle, 0.1), (-angle, 0.9, 0.0)))
        self.register_buffer("grid", F.affine_grid(turn[None], (1, 1, 8, 11), align_corners=False))
        self.register_buffer("rows", torch.tensor([3, 0, 7, 1, 1]))
        self.conv = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x):
        grid = self.grid.expand(x.shape[0], -1, -1, -1)
        return F.grid_sample(self.conv(x), grid, align_corners=False)[:, :, self.rows]


def test_coordinates_in_a_buffer():
    assert_not_gathered(Warp(), (2, 2, 8, 11), [(2, 2), (1, 3)])
    x, target = noise(1, 2, 8, 11), noise(1, 2, 5, 11, seed=2)
    check_training(Warp().double(), x, target, [grid(2, 2)], steps=1)


def test_other_coordinates_than_planned_are_refused(tmp_path):
    net = Warp()
    given = {"input_shapes": [(1, 2, 8, 11)], "split_size": 1, "num_spatial_parts": 2}
    session = spnb.InProcess(spnb.plan(spnb.Job(net, **given)), progress=False)
    assert session.infer().check().passed
    net.conv.weight.data.add_(1)  # weights may change
    assert session.infer().check().passed
    net.load_state_dict(Warp(angle=0.5).state_dict())
    wrong = "Warp was planned with other values of its buffer grid, .* plan it again"
    with pytest.raises(PlanError, match=wrong):
        session.infer()
    session.load(spnb.plan(session.plan.job))
    assert session.infer().check().passed
    torch.save(Warp(angle=0.1).state_dict(), tmp_path / "other.pth")
    job = spnb.Job(net, checkpoint=tmp_path / "other.pth", **given)
    with pytest.raises(PlanError, match=wrong):
        spnb.InProcess(spnb.plan(job), progress=False)


def test_coordinates_that_are_computed_from_the_image_are_refused():
    net = Call(lambda x: F.grid_sample(x, x[:, :2].movedim(1, 3).tanh(), align_corners=False))
    with pytest.raises(PlanError, match="grid_sampler, used like this, needs the whole extent"):
        planned(net, [(1, 2, 8, 11)], [Tiling.even((1, 2, 2))])
