"""Images that ranks change as they read them: named, by numbers, or by a function."""

import numpy as np
import pytest
import torch
from image_regions import FIRST, RGB

import spnb
from spnb.errors import OptionError
from spnb.job.parsing import NORMALIZATIONS

NET = torch.nn.Conv2d(3, 2, 3, padding=1)
GIVEN = {"image_size": RGB.shape[:2], "batch_size": 1, "stages": 1, "tiles": 6}


@pytest.fixture(scope="module")
def session():
    with spnb.InProcess(spnb.plan(NET, **GIVEN), progress=False) as session:
        yield session


def untiled(image):
    with torch.no_grad():
        return NET(torch.as_tensor(np.ascontiguousarray(image, np.float32)))


def along_channels(numbers):
    return np.array(numbers, np.float32).reshape(-1, 1, 1)


MEAN, STD = map(along_channels, NORMALIZATIONS["imagenet"])


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        (None, FIRST),
        ("imagenet", (FIRST - MEAN) / STD),
        ("0.5,0.25", (FIRST - 0.5) / 0.25),
        ((0.5, 0.25), (FIRST - 0.5) / 0.25),
        (NORMALIZATIONS["imagenet"], (FIRST - MEAN) / STD),
        (lambda x: np.log1p(255 * x), np.log1p(255 * FIRST)),
        (lambda x: torch.as_tensor(x) ** 2, FIRST**2),
        (lambda x: x[:, ::-1], FIRST[:, ::-1]),
    ],
)
def test_the_network_runs_on_what_was_asked_for(session, asked, wanted):
    result = session.infer(RGB, preprocess=asked)
    torch.testing.assert_close(torch.as_tensor(result.output), untiled(wanted))
    assert result.check().passed  # the untiled run has the same image


def test_a_network_in_double_precision_sees_all_digits():
    net = torch.nn.Conv2d(3, 2, 1).double()
    image = np.random.default_rng(0).random((1, 3, 12, 10))
    with spnb.InProcess(spnb.plan(net, image_size="12x10", stages=1), progress=False) as session:
        for asked in ((0.1, 0.3), lambda x: (x - 0.1) / 0.3):
            found = torch.as_tensor(session.infer(image, preprocess=asked).output)
            with torch.no_grad():
                wanted = net(torch.as_tensor((image - 0.1) / 0.3))
            torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("asked", "kind", "message"),
    [
        (lambda x: x - x.mean(), ValueError, "other numbers for a part of the image"),
        (lambda x: np.roll(x, 1, 3), ValueError, "other numbers for a part of the image"),
        (lambda x: x[:, :1], ValueError, r"shape \(1, 1, 8, 8\) of one of \(1, 3, 8, 8\)"),
        (lambda x: x.wrong, ValueError, "preprocess failed: AttributeError"),
        (3, OptionError, "preprocess is 3: give imagenet"),
        ((0.5, 0), OptionError, "standard deviation of 0"),
        ("imagnet", OptionError, "cannot read normalize 'imagnet'"),
        (((1, 2), 1), ValueError, "2 numbers, but images have 3 channels"),
    ],
)
def test_what_tiles_cannot_do_is_refused_in_a_line(session, asked, kind, message):
    with pytest.raises(kind, match=message):
        session.infer(RGB, preprocess=asked)


@pytest.mark.mpi
def test_ranks_do_it_on_their_regions(cluster):
    cluster.load(spnb.plan(NET, **GIVEN))
    factor = 3.0
    for asked, wanted in (("imagenet", (FIRST - MEAN) / STD), (lambda x: factor * x, 3 * FIRST)):
        found = cluster.infer(RGB, preprocess=asked)
        torch.testing.assert_close(torch.as_tensor(found.output), untiled(wanted))
        assert found.check().passed
