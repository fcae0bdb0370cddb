"""Products that sum over positions are merged from those of tiles, and never gathered."""

import pytest
import torch
from tiled import Call, check_regions, check_tiled
from torch import nn
from torch.nn import functional as F

SHAPE = (2, 4, 9, 11)


def gram(x):
    flat = x.flatten(2)
    return flat @ flat.transpose(1, 2) / flat.shape[2]


def channel_attention(x):
    """Zamir et al., *Restormer*, 2022."""
    q, k, v = (y.view(2, 2, 2, -1) for y in (x, x + 1, x.flip(1)))
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    return ((q @ k.transpose(-2, -1)).softmax(-1) @ v).view(x.shape)


def cross_covariance(x):
    """El-Nouby et al., *XCiT*, 2021: tokens first."""
    q = F.normalize(x.flatten(2).transpose(1, 2), dim=1)
    return torch.einsum("bnc,bnd->bcd", q, q).softmax(-1) @ x.flatten(2)


def pooled_by_attention(x):
    """A context vector (Cao et al., *GCNet*, 2019)."""
    weights = x.mean(1, keepdim=True).flatten(2).softmax(-1)
    context = x.flatten(2) @ weights.transpose(1, 2)
    return x + context[..., None]


def of_rows_only(x):
    return torch.einsum("bchw,bdhw->bcdw", x, x)


NETWORKS = {
    "gram": gram,
    "channel_attention": channel_attention,
    "cross_covariance": cross_covariance,
    "pooled_by_attention": pooled_by_attention,
    "of_rows_only": of_rows_only,
    "bilinear_pooling": lambda x: torch.einsum("bchw,bdhw->bcd", x, x.relu()),
    "of_all_positions": lambda x: (x.flatten(2).mT @ x.flatten(2) / 99) @ x.flatten(2).mT,
    "differences_of_positions": lambda x: x.flatten(2)[..., None] - x.flatten(2)[:, :, None],
    "of_a_constant": lambda x: x.flatten(2) @ torch.linspace(0, 1, 198, dtype=x.dtype).view(99, 2),
}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("parts", [1, 2])
def test_a_product_is_merged(network, parts):
    net = Call(NETWORKS[network])
    if parts == 1:
        check_regions(net, SHAPE)
    elif "view" in NETWORKS[network].__code__.co_names:
        pytest.skip("its shape has the batch in it")
    plans = check_tiled(net, SHAPE, grids=[(2, 2), (1, 3)], parts=parts)
    assert not any(plan.gathered for plan in plans)


COLUMNS = {
    "matmul": lambda x: x.mT @ x,
    "einsum": lambda x: torch.einsum("bchw,bchv->bcwv", x, x.relu()),
    "bmm": lambda x: torch.bmm(x.flatten(0, 1).mT, x.flatten(0, 1)),
    "tensordot": lambda x: torch.tensordot(x[:, 0], x[:, 1], ([1], [1])).sum(2),
    "of_rows": lambda x: torch.matmul(x.mT, x).softmax(-1) @ x.mT,
}


@pytest.mark.parametrize("spelling", COLUMNS)
def test_each_column_with_each_other(spelling):
    """Such a result is larger than the columns; a tile then reads those of its row of tiles."""
    shape = (1, 2, 6, 40)
    plans = check_tiled(Call(COLUMNS[spelling]), shape, grids=[(2, 2), (1, 3)])
    assert not any(plan.gathered for plan in plans)


@pytest.mark.parametrize("bias", [False, True])
def test_a_classifier_of_all_positions(bias):
    """As VGG's: each tile has the columns of the weight that belong to its positions."""
    for dims, size in ((2, 99), (1, 297)):
        layers = [nn.Conv2d(4, 3, 3, padding=1), nn.Flatten(dims), nn.Linear(size, 5, bias=bias)]
        plans = check_tiled(nn.Sequential(*layers), SHAPE, grids=[(2, 2), (1, 3)])
        assert not any(plan.gathered for plan in plans)


def test_a_volume():
    net = Call(lambda x: torch.einsum("bcdhw,bedhw->bce", x, x))
    assert not any(plan.gathered for plan in check_tiled(net, (1, 3, 5, 4, 6), grids=[(2, 1, 2)]))


def test_what_is_sent_does_not_grow_with_the_image():
    plans = [check_tiled(Call(gram), (1, 4, n, n), grids=[(2, 2)])[0] for n in (8, 32)]
    few, many = (
        sum(e.sent(0)[1] for e in plan.exchanges[1] if 0 in e.source.ranks and e.kind == "merge")
        for plan in plans
    )
    assert few == many > 0
