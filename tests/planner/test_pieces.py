"""Concatenations held in pieces: class tokens, registers, coordinate attention."""

import random
from functools import partial

import numpy as np
import pytest
import torch
from running import planned, planned_for_training
from tiled import Call, check_tiled, noise
from torch import nn
from torch.nn import functional as F
from training_steps import check, grid, train
from vision_transformers import Attention, CaiT, CoordinateAttention, MultiHead, ViT, WrittenOut

import spnb
from spnb.errors import PlanError
from spnb.planner.pieces.in_pieces import in_pieces

SHAPE = (2, 3, 8, 12)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def coordinate_network(pooled="mean"):
    conv = nn.Conv2d(3, 6, 3, padding=1)
    return nn.Sequential(conv, CoordinateAttention(6, pooled), nn.ReLU(), nn.Conv2d(6, 2, 3))


def tokens(x):
    return x.flatten(2).transpose(1, 2)


def beside_constants(x, *others):
    constants = [torch.linspace(0, 1, n * x.shape[1], dtype=x.dtype) for n in others]
    first, *more = (c.view(1, -1, x.shape[1]).expand(len(x), -1, -1) for c in constants)
    return torch.cat([first, tokens(x), *more], dim=1)


@pytest.mark.parametrize("pooled", ["mean", "adaptive"])
@pytest.mark.parametrize("parts", [1, 2])
def test_coordinate_attention(pooled, parts):
    plans = check_tiled(coordinate_network(pooled), (2, 3, 9, 11), parts=parts)
    assert not any(plan.gathered for plan in plans)


OPERATORS = {
    "linear": lambda x: F.linear(x, torch.ones(3, 4, dtype=x.dtype))[:, 2:],
    "elementwise": lambda x: (x.exp() + x).clamp(min=0.5)[:, 0],
    "norm": lambda x: F.layer_norm(x, (4,)).mean(1),
    "softmax of channels": lambda x: x.softmax(-1)[:, 2:].sum(1),
    "softmax of tokens": lambda x: x.softmax(1)[:, 2:],
    "log_softmax of tokens": lambda x: x.log_softmax(1)[:, :1],
    "sum": lambda x: x.sum((1, 2)),
    "mean": lambda x: x.mean(1, keepdim=True),
    "mean of everything": lambda x: x.mean(),
    "largest": lambda x: x.amax(1),
    "smallest": lambda x: x.amin(1),
    "logsumexp": lambda x: x.logsumexp(1),
    "length": lambda x: (x / x.norm(dim=1, keepdim=True))[:, 2:],
    "normalized tokens": lambda x: F.normalize(x, dim=1)[:, 0],
    "gram": lambda x: x.transpose(1, 2) @ x,
    "sum by a weight": lambda x: F.linear(x.mT, torch.linspace(0, 1, x.shape[1]).to(x)[None]),
    "sum by a weight, and a bias": lambda x: F.linear(
        x.mT, torch.linspace(0, 1, x.shape[1]).to(x)[None], torch.ones(1).to(x)
    ),
    "einsum": lambda x: torch.einsum("bnc,bnd->bcd", x, x + 1),
    "channels first": lambda x: x.transpose(1, 2)[:, :, 2:],
    "heads": lambda x: x.view(*x.shape[:2], 2, 2).permute(2, 0, 3, 1).flip(0)[..., 2:],
    "tokens first": lambda x: x.transpose(0, 1).flatten(0, 1).view(-1, len(x), 4)[2:],
    "conv of size 1": lambda x: F.conv1d(x.mT, torch.ones(2, 4, 1, dtype=x.dtype))[..., 2:],
    "batch norm": lambda x: F.batch_norm(x.mT, torch.ones(4).to(x), torch.ones(4).to(x))[..., 2:],
    "channels rolled": lambda x: x.roll(1, -1)[:, 2:],
    "a channel written": lambda x: x.slice_scatter(x[..., :1] * 2, 2, 1, 2)[:, 2:],
    "channels joined": lambda x: torch.cat([x, x * x], dim=-1)[:, 2:],
    "chunks": lambda x: x.chunk(2, -1)[1][:, 2:],
    "unbound": lambda x: x.unbind(1)[1] + x.unbind(-1)[0][:, :1],
    "joined again": lambda x: torch.cat([x[:, :1], x[:, :1] + 1, x[:, 2:]], dim=1)[:, 2:],
    "a value of the size of the pieces": lambda x: (x + x.mean(1, keepdim=True).expand_as(x))[
        :, 2:
    ],
    "reshaped": lambda x: x.reshape(len(x), -1, 2, 2).reshape(len(x), -1, 4)[:, 2:],
    "squeezed": lambda x: x.unsqueeze(1).squeeze()[:, 2:],
    "repeated": lambda x: x[:, None].repeat(1, 3, 1, 2).sum(1)[:, 2:],
    "mask of tokens": lambda x: x.masked_fill((torch.arange(x.shape[1]) % 3 == 0)[:, None], 0)[
        :, 2:
    ],
}


@pytest.mark.parametrize("operator", OPERATORS)
def test_an_operator_is_applied_to_each_piece(operator):
    net = Call(lambda x: OPERATORS[operator](beside_constants(x, 2)))
    plans = check_tiled(net, (2, 4, 5, 7), grids=[(2, 3)])
    assert not any(plan.gathered for plan in plans)


@pytest.mark.parametrize("operator", ["linear", "mean", "softmax of tokens", "gram", "heads"])
def test_pieces_at_both_ends(operator):
    def both_ends(x):
        return OPERATORS[operator](beside_constants(x, 2, 3)[:, : 2 + 35])

    plans = check_tiled(Call(both_ends), (2, 4, 5, 7), grids=[(2, 3)], parts=2)
    assert not any(plan.gathered for plan in plans)


WHOLE = {
    "sort": lambda x: x.sort(1)[0],
    "flip": lambda x: x.flip(1),
    "conv": lambda x: F.conv1d(x.mT, torch.ones(4, 4, 3, dtype=x.dtype)),
    "every other": lambda x: x[:, ::2],
    "variance": lambda x: x.var(1),
    "batch in front": lambda x: x.reshape(-1, 4) * 2,
    "a token written": lambda x: x.slice_scatter(x[:, :1] * 2, 1, 1, 2)[:, 0],
    "two roles of one value": lambda x: torch.einsum("bnc,bmc,bmd->bnd", x, x, x),
}


@pytest.mark.parametrize("operator", WHOLE)
def test_what_counts_positions_reads_the_concatenation(operator):
    net = Call(lambda x: WHOLE[operator](beside_constants(x, 2)))
    with pytest.raises(PlanError, match="needs the whole extent 5×7"):
        check_tiled(net, (2, 4, 5, 7), grids=[(2, 3)])
    plans = check_tiled(net, (2, 4, 5, 7), grids=[(2, 3)], allow_gather=True)
    assert all(plan.gathered for plan in plans)
    if operator != "batch in front":
        check_tiled(net, (2, 4, 5, 7), grids=[(2, 3)], parts=2, allow_gather=True)


@pytest.mark.parametrize("around", [(1, 0), (0, 2), (1, 2)])
@pytest.mark.parametrize("number", [0.0, 0.5])
def test_tokens_with_a_constant_around_them(around, number):
    def position_by_position(x):  # as in CoaT: a class token has no position
        given = torch.cat([x.new_ones(len(x), n, 4) for n in around], 1)
        joined = torch.cat([given[:, : around[0]], tokens(x), given[:, around[0] :]], 1)
        padded = F.pad(tokens(x) * 2, (0, 0, *around), value=number)
        return (joined + padded).exp().mean(1)

    for parts in (1, 2):
        plans = check_tiled(Call(position_by_position), (2, 4, 5, 7), grids=[(2, 3)], parts=parts)
        assert not any(plan.gathered for plan in plans)


def levels(x):
    """Lin et al., *Focal loss for dense object detection*, 2017: all positions of all levels."""
    return torch.cat([F.avg_pool2d(x, n).flatten(2) for n in (1, 2, 4)], 2)


RETURNED = {
    "tokens": lambda x: beside_constants(x, 1, 2).tanh(),
    "several": lambda x: {"tokens": beside_constants(x, 1), "first": beside_constants(x, 1)[:, 0]},
    "levels": levels,
    "scores of levels": lambda x: (levels(x).softmax(2).mT, levels(x).amax(2)),
}


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("name", RETURNED)
def test_a_concatenation_that_is_returned_is_joined_where_it_is_collected(name, parts):
    net = Call(lambda m, x: RETURNED[name](m[0](x)), nn.Conv2d(3, 4, 3, padding=1))
    plans = check_tiled(net, SHAPE, grids=[(2, 2), (1, 3)], parts=parts)
    assert not any(plan.gathered for plan in plans)


def test_an_output_that_is_joined_keeps_its_number_and_is_not_saved_by_region(tmp_path):
    net = Call(lambda m, x: RETURNED["several"](m[0](x)), nn.Conv2d(3, 4, 3, padding=1))
    job = spnb.Job(net, image_size=(8, 12), batch_size=2, split_size=1, num_spatial_parts=4)
    result = spnb.InProcess(spnb.plan(job), progress=False).infer()
    assert result.check().passed
    assert list(result.output) == ["tokens", "first"]
    assert "Result of Call" in repr(result.show())
    for output in (0, "tokens"):
        with pytest.raises(ValueError, match="joins positions of the image with others"):
            result.save(tmp_path / "a.npy", output)
    with pytest.raises(ValueError, match="say which of 2 outputs: tokens, first"):
        result.save(tmp_path / "a.npy")
    first = np.load(result.save(tmp_path / "a.npy", 1))
    assert np.array_equal(first, result.output["first"])


def test_a_concatenation_with_an_empty_tensor():
    def filled_up(x):  # to whole groups of five tokens, of which no more are needed
        more = (-x.shape[2] * x.shape[3]) % 5
        joined = torch.cat([tokens(x), tokens(x)[:, :more].flip(1)], 1)
        return joined.view(len(x), -1, 5, 4).sum(2)

    plans = check_tiled(Call(filled_up), (2, 4, 6, 5), grids=[(2, 1)])
    assert not any(plan.gathered for plan in plans)


def test_a_concatenation_of_channels_stays_one():
    net = Call(lambda x: torch.cat([x, x.relu()], dim=1).exp())
    graph = check_tiled(net, (1, 4, 6, 8), grids=[(2, 2)])[0].captured
    assert in_pieces(graph, [grid(2, 2)], [len(graph.blocks)]) is graph


def test_a_stage_that_is_not_tiled_has_no_pieces():
    graph = planned(ViT((8, 12)).double(), SHAPE, [grid(1, 1)]).captured
    assert in_pieces(graph, [grid(1, 1)], [len(graph.blocks)]) is graph


NETWORKS = {
    "class token": {"head": "class"},
    "mean": {"head": "mean"},
    "registers": {"head": "class", "registers": 4},
    "distilled": {"head": "distilled", "first": 2},
    "mean of the image": {"head": "mean of the image", "registers": 2},
    "image": {"head": "image", "registers": 1},
    "readout": {"head": "readout"},
    "nn.MultiheadAttention": {"attention": MultiHead},
    "its weights, unread": {"attention": partial(MultiHead, need_weights=True)},
    "tokens first": {"attention": partial(MultiHead, batch_first=False)},
    "written out": {"attention": WrittenOut, "registers": 2},
    "bias of pairs": {"attention": partial(WrittenOut, count=25), "head": "image"},
}


@pytest.mark.slow(but_each=5)
@pytest.mark.long
@pytest.mark.parametrize(
    ("network", "parts"), [(name, 1 + number % 2) for number, name in enumerate(NETWORKS)]
)
def test_a_vision_transformer(network, parts):
    net = ViT((8, 12), **NETWORKS[network])
    plans = check_tiled(net, SHAPE, grids=[(2, 2), (1, 3)], parts=parts)
    assert not any(plan.gathered for plan in plans)


@pytest.mark.long
def test_vision_transformers_of_random_sizes():
    chance = random.Random(0)
    for _ in range(6):
        size = [2 * chance.randint(3, 7), 2 * chance.randint(3, 7)]
        grids = [(chance.randint(1, 3), chance.randint(2, 4))]
        registers, attention = chance.randint(0, 4), chance.choice([Attention, WrittenOut])
        net = ViT(size, first=2, registers=registers, attention=attention, depth=1)
        plans = check_tiled(net, (1, 3, *size), grids=grids, fused=(0,))
        assert not any(plan.gathered for plan in plans)


@pytest.mark.parametrize("size", [(16,), (4, 6, 8)])
def test_sequences_and_volumes(size):
    grids = [(3,)] if len(size) == 1 else [(2, 1, 2)]
    plans = check_tiled(ViT(size, registers=2), (1, 3, *size), grids=grids)
    assert not any(plan.gathered for plan in plans)


@pytest.mark.long
@pytest.mark.parametrize(("fused", "parts"), [(False, 1), (True, 2)])
def test_class_attention(fused, parts):
    plans = check_tiled(CaiT(fused), SHAPE, grids=[(2, 2), (1, 3)], parts=parts)
    assert not any(plan.gathered for plan in plans)


def number_mask(queries, keys, x):
    return torch.linspace(-2, 2, queries * keys).sin().to(x).view(queries, keys)


MASKS = {
    "bias": lambda n, x: number_mask(n, n, x),
    "bias of heads": lambda n, x: number_mask(n, 2 * n, x).view(2, n, n),
    "bias of keys": lambda n, x: number_mask(1, n, x),
    "boolean": lambda n, x: number_mask(n, n, x) < 0,
    "hidden tokens": lambda n, x: (torch.arange(n) >= 4)[None],
    "queries without keys": lambda n, x: (torch.arange(n) % 3 > 0)[:, None].expand(n, n),
    "computed": lambda n, x: number_mask(n, n, x) * x.mean(),
}


@pytest.mark.slow(but_each=2)
@pytest.mark.long
@pytest.mark.parametrize("mask", MASKS)
def test_masks_of_tokens_in_pieces(mask):
    def forward(x):
        x = beside_constants(x, 2, 1).unflatten(-1, (2, 2)).transpose(1, 2)
        y = F.scaled_dot_product_attention(x, x.roll(1, -1), x, MASKS[mask](x.shape[2], x))
        return y[:, :, 2:-1], y[:, :, 0], y[:, :, -1]

    plans = check_tiled(Call(forward), (2, 4, 5, 6), grids=[(2, 2), (1, 3)])
    assert not any(plan.gathered for plan in plans)


def test_tokens_read_those_of_another_image():
    """Keys and values of two images, one after another."""

    def forward(x):
        q, more = tokens(x), tokens(F.avg_pool2d(x, 2))
        k = torch.cat([q, more], dim=1)
        return F.scaled_dot_product_attention(q[:, None], k[:, None], 2 * k[:, None])[:, 0]

    plans = check_tiled(Call(forward), (2, 4, 8, 12), grids=[(2, 2), (1, 3)])
    assert not any(plan.gathered for plan in plans)


def check_training(net, shape, parts=1):
    net = net.double().train()
    with torch.no_grad():
        like = net(noise(*shape))
    target = noise(*like.shape, seed=2)
    tilings = [grid(2, 2)]
    plan, _ = check(net, noise(*shape), target, tilings, parts, tolerance=1e-10, steps=2)
    return plan


@pytest.mark.parametrize("fused", [False, True])
def test_gradients_of_class_attention(fused):
    check_training(CaiT(fused), SHAPE, parts=2)


@pytest.mark.slow(but_each=3)
@pytest.mark.long
@pytest.mark.parametrize(
    "network", ["class token", "registers", "image", "tokens first", "bias of pairs"]
)
def test_gradients_of_a_vision_transformer(network):
    check_training(ViT((8, 12), **NETWORKS[network]), SHAPE, parts=2)


@pytest.mark.parametrize("operator", ["mean", "softmax of tokens", "gram", "length", "largest"])
def test_gradients_of_an_operator_on_pieces(operator):
    def both(layers, x):
        return OPERATORS[operator](layers[1](beside_constants(layers[0](x), 2)))

    check_training(Call(both, nn.Conv2d(4, 4, 3), nn.GELU()), (2, 4, 7, 9))


@pytest.mark.parametrize("parts", [1, 2])
def test_gradients_of_coordinate_attention(parts):
    """The batch norm in it takes the statistics of rows and columns together."""
    plan = check_training(coordinate_network(), (2, 3, 7, 9), parts)
    assert not plan.gathered


def test_dropout_drops_the_same_elements_of_pieces_and_of_the_whole():
    def forward(layers, x):
        return F.relu(layers[1](beside_constants(layers[0](x), 2)))[:, 2:]

    net = Call(forward, nn.Conv2d(4, 4, 3, padding=1), nn.Dropout(0.4)).double().train()
    x, target, losses = noise(2, 4, 5, 7), noise(2, 35, 4, seed=2), []
    for tiles in (grid(1, 1), grid(2, 3)):
        plan = planned_for_training(net, tuple(x.shape), [tiles])
        assert (plan.graph.by_name.keys() == plan.captured.by_name.keys()) == (tiles == grid(1, 1))
        losses.append(train(plan, net, x, target, steps=2)[0])
    assert losses[1] == pytest.approx(losses[0], rel=1e-12)
