"""One line runs a network in tiles: `spnb.run`, and a start from a job or a network."""

import pytest
import torch

import spnb
from spnb.ui import notebook

pytestmark = pytest.mark.mpi


@pytest.fixture(autouse=True)
def nothing_runs(on_shared_engines, monkeypatch):
    monkeypatch.setattr(notebook, "_cluster", None)


def test_an_image_is_run_in_tiles_and_what_is_loaded_stays():
    net, image = torch.nn.Conv2d(1, 2, 3, padding=1), torch.rand(2, 1, 20, 14)
    result = spnb.run(net, image, tiles=4, stages=1)
    with torch.no_grad():
        torch.testing.assert_close(torch.as_tensor(result.output), net(image))
    assert result.plan.num_ranks == 4
    cluster, plan = notebook.running(), notebook.running().plan
    again = spnb.run(net, image + 1, tiles=4, stages=1)
    assert again.plan is plan
    other = spnb.run(net, image, tiles=2, stages=1)
    assert other.plan.num_ranks == 2
    assert notebook.running() is cluster
    with torch.no_grad():
        net.weight.mul_(2)
        changed = spnb.run(net, image[:1], tiles=2, stages=1)
        torch.testing.assert_close(torch.as_tensor(changed.output), net(image[:1]))
    assert spnb.run(spnb.Job(net, stages=1), image, tiles=4).output.shape == (2, 2, 20, 14)


def test_what_cannot_be_run_starts_nothing():
    net = torch.nn.Conv2d(1, 2, 3, padding=1)
    for image, message in ((None, "image"), (torch.rand(1, 3, 20, 14), "3 channels")):
        with pytest.raises(ValueError, match=message):
            spnb.run(net, image, tiles=4, stages=1)
    assert notebook.running() is None


def test_engines_start_from_a_job_or_a_network():
    net = torch.nn.Conv2d(1, 2, 3, padding=1)
    given = {"image_size": 16, "batch_size": 1, "stages": 1, "tiles": 2}
    cluster = spnb.start(net, **given)
    assert cluster.plan.num_ranks == 2
    assert spnb.start(spnb.Job(net, **given), tiles=4) is cluster
    assert cluster.plan.num_ranks == 4
    with pytest.raises(TypeError, match="tiles: the plan is made; give a job"):
        spnb.start(cluster.plan, tiles=2)
    with pytest.raises(ValueError, match="timeout would have no effect"):
        spnb.start(cluster.plan, timeout=3)
