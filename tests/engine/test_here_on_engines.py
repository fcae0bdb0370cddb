"""`spnb.here` on each engine: its place, its exchange and its forward."""

import pytest
import torch
from on_engines import planned, remote

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
