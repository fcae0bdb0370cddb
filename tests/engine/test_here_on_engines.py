"""`spnb.here` on each engine: its place, its exchange and its forward."""

import pytest
import torch
from on_engines import planned, remote
from torch import nn

import spnb

pytestmark = pytest.mark.mpi


def test_here_on_each_engine(cluster):
    cluster.load(planned(image_size="64x80", batch_size=2, precision="fp32"))
    view = cluster.view
    view.execute("me = (spnb.here.rank, spnb.here.stage, spnb.here.tile, repr(spnb.here))")
    told = view["me"]
    assert [t[:3] for t in told[:5]] == [(0, 0, 0), (1, 0, 1), (2, 0, 2), (3, 0, 3), (4, 1, 0)]
    assert told[3][3].startswith("spnb.here: rank 3 of 5, stage 0, tile 3 of 2×2, owns Region(")
    assert told[9][:3] == (None, None, None)
    assert "no plan is loaded" in repr(cluster.client[cluster.engines.ids[9]].apply_sync(_me))
    image = torch.rand(2, 3, 64, 80)
    tiles = [image[:, :, a : a + 32, b : b + 40] for a in (0, 32) for b in (0, 40)]
    grown = cluster._call(_exchange, [(tile,) for tile in tiles])
    assert torch.equal(grown[0], image[:, :, :34, :43])
    assert torch.equal(grown[3], image[:, :, 30:, 37:])
    pieces = cluster._call(_forward, [(tile,) for tile in tiles] + [(None,)])
    with torch.inference_mode():
        expected = cluster.plan.job.module(image)
    assert torch.allclose(pieces[4][0].tensor, expected, atol=1e-5)


@remote
def _me():

    return repr(spnb.here)


@remote
def _exchange(tile):

    return spnb.here.exchange(tile, halo=(2, 3))


@remote
def _forward(tile):

    return spnb.here.forward(tile)


PROGRAM = """
import copy, torch, spnb
from torch import nn
torch.manual_seed(spnb.here.rank or 0)  # other weights on each rank, until rank 0's are sent
net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3, padding=1))
own = spnb.parallel(net, job)
optimizer = torch.optim.SGD(own.parameters(), 0.1, momentum=0.9)
image = torch.linspace(-1, 1, 3 * 16 * 40).reshape(1, 3, 16, 40)
tile = own.scatter(image).requires_grad_()
losses = []
for step in range(3):
    optimizer.zero_grad()
    loss = own.mean(own(tile) ** 2)
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
"""
"""A training loop, as it stands in a cell."""


def test_a_loop_of_one_s_own_in_a_cell(cluster):
    """On all ten engines; a plan of fewer ranks, which is loaded, runs as before."""
    cluster.load(planned(image_size="64x80", batch_size=2, precision="fp32"))
    before = cluster.infer().output
    options = {"image_size": (16, 40), "batch_size": 1, "split_size": 1}
    job = spnb.Job("unet", num_spatial_parts=10, slice_method="vertical", **options)
    cluster.view.push({"job": job}, block=True)
    cluster.view.execute(PROGRAM).get()
    losses = cluster.view["losses"]
    assert losses == [losses[0]] * 10
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3, padding=1)
    )
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    image = torch.linspace(-1, 1, 3 * 16 * 40).reshape(1, 3, 16, 40)
    for wanted in losses[0]:
        optimizer.zero_grad()
        loss = net(image).square().mean()
        loss.backward()
        optimizer.step()
        assert loss.item() == pytest.approx(wanted, rel=1e-5)
    assert torch.equal(cluster.infer().output, before)
