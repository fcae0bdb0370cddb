"""NaN and infinite numbers are named where they begin, by rank and layer."""

import pytest
import torch
from torch import nn

import spnb

SIZE = {"image_size": "12x16", "batch_size": 1, "stages": 1, "tiles": 2, "slice_method": "vertical"}


class Divided(nn.Module):
    """Divides by zero where the image is 0.5."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x):
        return self.last(self.first(x) * 0 + 1 / (x - 0.5))


def run(image, **options):
    plan = spnb.plan(Divided(), **(SIZE | options))
    with spnb.InProcess(plan) as session:
        return session.infer(image, check_finite=True)


def image():
    return torch.rand(1, 1, 12, 16) / 4


def test_an_image_with_nan_is_named_with_its_rank(capsys):
    x = image()
    x[..., 3, 12:14] = torch.nan
    found = run(x).not_finite
    assert capsys.readouterr().out.count("rank 1 (stage 0), in the image: 2 NaN and 0 inf") == 1
    assert found.loc[0, ["rank", "layer", "nan", "numbers"]].tolist()[:3] == [1, "the image", 2]


def test_a_layer_that_divides_by_zero_is_named(capsys):
    x = image()
    x[..., 3, 2] = 0.5
    result = run(x)
    (row,) = result.not_finite.to_dict("records")
    assert (row["rank"], row["nan"], row["infinite"]) == (0, 0, 1)
    assert "reciprocal" in row["layer"] or "div" in row["layer"]
    assert "1 infinite of" in capsys.readouterr().out


def test_the_first_is_that_of_the_earliest_layer_though_it_spreads():
    x = image()
    x[..., 3, 7] = 0.5  # beside the border: the other tile's last layer reads it
    found = run(x).not_finite
    assert found["rank"].tolist() == [0, 1]


def test_finite_numbers_are_told_and_nothing_is_searched_unasked(capsys):
    assert run(image()).not_finite.empty
    assert "all numbers are finite" in capsys.readouterr().out
    x = image()
    x[..., 0, 0] = torch.inf
    with spnb.InProcess(spnb.plan(Divided(), **SIZE)) as session:
        assert session.infer(x).not_finite.empty
    assert "finite" not in capsys.readouterr().out


@pytest.mark.mpi
def test_ranks_tell_it(cluster):
    cluster.load(spnb.plan(Divided(), **SIZE))
    x = image()
    x[..., 3, 2] = 0.5
    assert "rank 0 (stage 0)" in cluster.infer(x, check_finite=True).first_not_finite
