"""What a cell does on a rank: here with all ranks in one process."""

import pytest
import torch

import spnb


@pytest.fixture(scope="module")
def session():
    torch.manual_seed(0)
    net = torch.nn.Conv2d(1, 1, 3, padding=1)
    split = {"split_size": 1, "num_spatial_parts": 3, "slice_method": "vertical"}
    job = spnb.Job(net, image_size=24, batch_size=1, **split)
    return spnb.InProcess(spnb.plan(job), progress=False)


def tile(here, image):
    _, rows, columns = here.region.spans
    return image[..., slice(*rows), slice(*columns)].contiguous()


def test_an_exchange_grows_a_tile_by_what_its_neighbours_have(session):
    image = torch.rand(1, 5, 24, 24)
    grown = session.run(lambda here: here.exchange(tile(here, image), halo=(0, 2)))
    for found, (start, stop) in zip(grown, ((0, 10), (6, 18), (14, 24))):
        assert torch.equal(found, image[..., start:stop])


def test_a_forward_of_tiles_is_that_of_the_image(session):
    image = torch.rand(1, 1, 24, 24)
    pieces = session.run(lambda here: here.forward(tile(here, image)))
    found = torch.cat([piece.tensor for (piece,) in pieces], dim=-1)
    with torch.inference_mode():
        torch.testing.assert_close(found, session.plan.module(image))


def test_what_is_no_tile_is_refused(session):
    image = torch.rand(1, 1, 24, 24)
    wanted = r"rank \d owns .*: x must be that tile, of shape \(1, channels, 24, 8\), not "
    for given, shape in ((image, r"\(1, 1, 24, 24\)"), (None, "None")):
        with pytest.raises(ValueError, match=wanted + shape):
            session.run(lambda here, given=given: here.forward(given))
