"""Dropout in training: one mask for all grids, with the rate that was asked for."""

import copy
import itertools
from functools import partial

import pytest
import torch
from networks import conv
from running import planned_for_training as planned
from tiled import Call, noise
from torch import nn
from torch.nn import functional as F
from training_steps import SQUARE, WHOLE, grid, train

from spnb.errors import CaptureError
from spnb.ir.axes import Axes
from spnb.ir.region import Region
from spnb.ir.tiling import Tiling
from spnb.rules.dropout import dropout_mask
from spnb.rules.dropout import noise as noise_of


class Dropped(nn.Module):
    """Dropout by positions in the whole batch: what the untiled network does with one mask."""

    def __init__(self, dropout):
        super().__init__()
        self.first, self.dropout, self.last = conv(3, 4), dropout, conv(4, 2)
        self.mask = None

    def forward(self, x):
        x = self.first(x).relu()
        return self.last(self.dropout(x) if self.mask is None else x * self.mask)


@pytest.mark.parametrize("dropout", [nn.Dropout(0.3), nn.Dropout2d(0.5)], ids=str)
@pytest.mark.parametrize("parts", [1, 2])
def test_dropout_drops_the_same_on_all_grids(dropout, parts):
    net = Dropped(dropout).double()
    x, target = noise(4, 3, 9, 14), noise(4, 2, 9, 14)
    seeds = []
    for tilings in [[WHOLE, WHOLE], [SQUARE, WHOLE], [grid(1, 3), Tiling.even((2, 1, 1))]]:
        for fused, recompute in ((0, False), (100, False), (0, True)):
            plan = planned(net, tuple(x.shape), tilings, parts, fused)
            losses, _, _ = train(plan, net, x, target, steps=2, recompute=recompute)
            seeds.append(losses)
    for losses in seeds:
        assert losses == pytest.approx(seeds[0], rel=1e-12)
    if parts == 1:  # plain PyTorch with that mask has that loss, and that gradient
        (node,) = [node for node in plan.graph.nodes if "dropout" in node.kind]
        features = isinstance(dropout, nn.Dropout2d)
        with noise_of(0, 0, 4):
            ones = dropout_mask(
                node.name, dropout.p, node.axes, Region.whole(node.axes.extent), features
            )
        net.mask = ones.double() / (1 - dropout.p)
        assert seeds[0] == pytest.approx(untiled_losses(net, x, target, 2), rel=1e-12)


def written_out(query, key, value):
    return F.dropout((query @ key.mT / 2**0.5).softmax(-1), 0.3) @ value


def attention_of(attend, m, x):
    y = m[0](x).flatten(2).mT
    return attend(y, y + 1, y).mT.reshape(x.shape)


in_one_operator = partial(F.scaled_dot_product_attention, dropout_p=0.3)


@pytest.mark.parametrize("attend", [in_one_operator, written_out])
def test_weights_of_attention_that_are_dropped_are_the_same_on_all_grids(attend):
    torch.manual_seed(0)
    net = Call(partial(attention_of, attend), nn.Conv2d(2, 2, 1)).double()
    x, target = noise(2, 2, 8, 12), noise(2, 2, 8, 12, seed=2)
    plans = [planned(net, tuple(x.shape), [tiling]) for tiling in (WHOLE, SQUARE, grid(1, 3))]
    assert not any(plan.gathered for plan in plans)
    whole, *tiled = (train(plan, net, x, target, steps=2)[0] for plan in plans)
    net.function = partial(attention_of, F.scaled_dot_product_attention)
    assert whole[0] != pytest.approx(untiled_losses(net, x, target, 1)[0], rel=1e-3)
    for losses in tiled:
        assert losses == pytest.approx(whole, rel=1e-12)


def test_a_mask_beside_dropped_weights_is_refused():
    causal = partial(in_one_operator, is_causal=True)
    net = Call(partial(attention_of, causal), nn.Conv2d(2, 2, 1)).double()
    with pytest.raises(CaptureError, match=r"scaled_dot_product_attention.* makes random numbers"):
        planned(net, (2, 2, 8, 12), [SQUARE])


def untiled_losses(net, x, target, steps):
    """Of plain PyTorch, as `train` has its optimizer."""
    net, losses = copy.deepcopy(net), []
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.mse_loss(net(x), target)
        loss.backward()
        losses.append(float(loss.detach()))
        optimizer.step()
    return losses


def test_what_is_dropped_is_as_much_as_was_asked_and_differs():
    axes = Axes.image((8, 16, 32, 32))
    whole = Region.whole(axes.extent)
    masks = {}
    for seed, layer in itertools.product((0, 1), ("a", "b")):
        with noise_of(seed, 0, 8):
            masks[seed, layer] = dropout_mask(layer, 0.25, axes, whole, features=False)
            features = dropout_mask(layer, 0.25, axes, whole, features=True)
        assert masks[seed, layer].double().mean() == pytest.approx(0.75, abs=0.01)
        assert bool((features == features[:, :, :1, :1]).all())
        assert 0.6 < features.double().mean() < 0.9
        for dim in range(4):  # neighbours along each dimension know nothing of each other
            a, b = (
                masks[seed, layer].double().narrow(dim, 0, 7),
                masks[seed, layer].double().narrow(dim, 1, 7),
            )
            assert abs(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) < 0.02
    for (a, x), (b, y) in itertools.combinations(masks.items(), 2):
        assert a != b and (x == y).double().mean() == pytest.approx(0.625, abs=0.01)
