"""Attention over all positions: the keys of tiles go round, and nothing is gathered."""

import math
import random

import pytest
import torch
from running import planned, planned_for_training
from tiled import Call, check_regions, check_tiled, noise
from torch import nn
from torch.nn import functional as F
from training_steps import check as check_training
from training_steps import grid

import spnb
from spnb.analysis.memory import activation_bytes, held_value_bytes
from spnb.analysis.traffic import traffic
from spnb.ir.tiling import Tiling
from spnb.kernels import attention as kernel

SHAPE = (2, 8, 7, 9)
POSITIONS = 63


def tokens(x):
    return x.flatten(2).transpose(1, 2)


def heads(x, count=2):
    return tokens(x).unflatten(2, (count, -1)).transpose(1, 2)


def image(y, like):
    """``(batch, heads, positions, channels)`` as an image."""
    return y.transpose(2, 3).reshape(like.shape[0], -1, *like.shape[2:])


def constant(*shape):
    return torch.arange(math.prod(shape)).double().view(shape).sin()


def self_attention(x, **options):
    return image(F.scaled_dot_product_attention(heads(x), heads(x * 2), heads(x + 1), **options), x)


def masked_by_the_image(x):
    """Each query reads only keys that are positive in the first channel."""
    mask = (x[:, :1] > -1).flatten(2)[:, :, None]
    return self_attention(x, attn_mask=mask)


def several_heads_of_queries(x):
    y = x[:, :4]
    return image(
        F.scaled_dot_product_attention(
            heads(x, 4), heads(y, 2), heads(y + 1, 2), scale=0.3, enable_gqa=True
        ),
        x,
    )


def reduced_keys(m, x):
    """Wang et al., *Pyramid vision transformer*, 2021."""
    y = m[0](x)
    return image(F.scaled_dot_product_attention(heads(x), heads(y), heads(y.relu())), x)


def criss_cross(x):
    """Attention along rows, then along columns."""
    rows = x.permute(0, 2, 3, 1).flatten(0, 1)
    x = F.scaled_dot_product_attention(rows, rows, rows).view(2, 7, 9, 8)
    columns = x.permute(0, 2, 1, 3).flatten(0, 1)
    return F.scaled_dot_product_attention(columns, columns + 1, columns).view(2, 9, 7, 8)


def learned_queries(m, x):
    queries = m[0].weight[None].expand(2, -1, -1)
    return F.scaled_dot_product_attention(queries, tokens(x), tokens(x).tanh())


def multi_head(m, x):
    return m[0](tokens(x), tokens(x), tokens(x), need_weights=False)[0]


def multi_head_with_weights(m, x):
    """By products: PyTorch takes this path where it is asked for the weights."""
    y = tokens(x).transpose(0, 1)
    return m[0](y, y, y * 2, attn_mask=constant(POSITIONS, POSITIONS))[0]


def block_of_diffusers(m, x):
    """Group norm, tokens, three linear layers, heads, attention, a shortcut."""
    y = tokens(m[0](x))
    q, k, v = (layer(y).view(2, -1, 2, 4).transpose(1, 2) for layer in m[1:4])
    y = F.scaled_dot_product_attention(q, k, v, dropout_p=0.0, is_causal=False)
    return x + m[4](y.transpose(1, 2).reshape(2, -1, 8)).transpose(1, 2).reshape(x.shape)


def block_of_latent_diffusion(m, x):
    """Rombach et al., 2022: channels first, and the weights are transposed."""
    q, k, v = (layer(x).flatten(2) for layer in m)
    weights = torch.bmm(q.permute(0, 2, 1), k) * 8**-0.5
    return torch.bmm(v, F.softmax(weights, dim=2).permute(0, 2, 1)).reshape(x.shape)


def linear(count):
    return [nn.Linear(8, 8) for _ in range(count)]


OPERATORS = {
    "self_attention": (self_attention, []),
    "biased": (lambda x: self_attention(x, attn_mask=constant(2, POSITIONS, POSITIONS)), []),
    "masked": (lambda x: self_attention(x, attn_mask=constant(POSITIONS, POSITIONS) > 0), []),
    "rows_without_keys": (
        lambda x: self_attention(x, attn_mask=constant(POSITIONS, 1).expand(-1, POSITIONS) > 0),
        [],
    ),
    "masked_by_the_image": (masked_by_the_image, []),
    "causal": (lambda x: self_attention(x, is_causal=True), []),
    "several_heads_of_queries": (several_heads_of_queries, []),
    "reduced_keys": (reduced_keys, [nn.Conv2d(8, 8, 2, 2)]),
    "criss_cross": (criss_cross, []),
    "learned_queries": (learned_queries, [nn.Linear(8, 3)]),
    "multi_head": (multi_head, [nn.MultiheadAttention(8, 2, batch_first=True)]),
    "multi_head_with_weights": (multi_head_with_weights, [nn.MultiheadAttention(8, 2)]),
    "block_of_diffusers": (block_of_diffusers, [nn.GroupNorm(2, 8), *linear(4)]),
    "block_of_latent_diffusion": (
        block_of_latent_diffusion,
        [nn.Conv2d(8, 8, 1) for _ in range(3)],
    ),
}


@pytest.mark.slow(but_each=2)
@pytest.mark.long
@pytest.mark.parametrize("name", OPERATORS)
def test_keys_go_round(name):
    function, modules = OPERATORS[name]
    net = Call(function, *modules)
    check_regions(net, SHAPE, most=10)
    plans = check_tiled(net, SHAPE, grids=[(2, 2), (1, 3)])
    assert not any(plan.gathered for plan in plans)
    kind = "merge" if name == "learned_queries" else "ring"
    assert any(e.kind == kind for plan in plans for e in plan.exchanges[2])


def relative(q):
    """Biases by the row and the column of a key, of each query (Li et al., *MViTv2*, 2022)."""
    q = q.view(2, 2, 7, 9, 4)
    rows = torch.einsum("byhwc,hkc->byhwk", q, constant(7, 7, 4))
    columns = torch.einsum("byhwc,wkc->byhwk", q, constant(9, 9, 4))
    return rows.unsqueeze(-1), columns.unsqueeze(-2)


def relative_positions(q, k, v):
    rows, columns = relative(q)
    scores = (q * 0.5) @ k.mT
    scores = (scores.view(2, 2, 7, 9, 7, 9) + rows + columns).view(2, 2, POSITIONS, POSITIONS)
    return scores.softmax(-1) @ v


def relative_positions_of_all_heads_at_once(q, k, v):
    """Kirillov et al., *Segment anything*, 2023: heads are images of the batch."""
    rows, columns = (each.flatten(0, 1) for each in relative(q))
    scores = q.flatten(0, 1) @ k.flatten(0, 1).transpose(-2, -1)
    scores = (columns + (scores.view(4, 7, 9, 7, 9) + rows)).reshape(4, POSITIONS, POSITIONS)
    return (scores.softmax(-1) @ v.flatten(0, 1)).view(2, 2, POSITIONS, 4)


def relative_positions_written(q, k, v):
    rows, columns = relative(q)
    scores = q @ k.mT
    scores[:, :, 0:, 0:] = (scores[:, :, 0:, 0:].view(2, -1, 7, 9, 7, 9) + rows + columns).view(
        2, -1, POSITIONS, POSITIONS
    )
    return scores.softmax(-1) @ v


def biases_in_views_of_two_shapes(q, k, v):
    scores = q @ k.mT + constant(1, POSITIONS)
    scores = scores.view(2, 2, 7, 9, POSITIONS) + constant(7, 1, POSITIONS)
    scores = scores.reshape(2, 2, POSITIONS, 7, 9) + constant(POSITIONS, 1, 9)
    scores = scores.flatten(3) + constant(2, POSITIONS, POSITIONS)
    return scores.softmax(-1) @ v


WRITTEN_OUT = {
    "two_biases": lambda q, k, v: (
        (q @ k.mT + constant(2, POSITIONS, POSITIONS) + constant(POSITIONS)).softmax(-1) @ v
    ),
    "relative_positions": relative_positions,
    "relative_positions_of_all_heads_at_once": relative_positions_of_all_heads_at_once,
    "relative_positions_written": relative_positions_written,
    "biases_in_views_of_two_shapes": biases_in_views_of_two_shapes,
    "plain": lambda q, k, v: (q @ k.mT).softmax(-1) @ v,
    "scaled_after": lambda q, k, v: ((q @ k.mT) / 3).softmax(-1) @ v,
    "scaled_before": lambda q, k, v: (q * 0.3 @ (k * 0.7).transpose(-1, -2)).softmax(-1) @ v,
    "scaled_by_a_tensor": lambda q, k, v: (
        (q @ k.mT * constant(2, 1, 1).exp() / torch.tensor(2.0).double().sqrt()).softmax(-1) @ v
    ),
    "biased": lambda q, k, v: (
        (0.3 * (q @ k.mT) + constant(2, POSITIONS, POSITIONS)).softmax(-1) @ v
    ),
    "masked": lambda q, k, v: (
        (q @ k.mT).masked_fill(constant(POSITIONS, POSITIONS) > 0.5, -math.inf).softmax(-1) @ v
    ),
    "rows_masked_by_a_number": lambda q, k, v: (
        (q @ k.mT + constant(1, POSITIONS))
        .masked_fill((constant(POSITIONS, 1) > 0.5).expand(-1, POSITIONS), -1e9)
        .softmax(-1)
        @ v
    ),
    "rows_without_keys": lambda q, k, v: (
        (q @ k.mT)
        .masked_fill((constant(POSITIONS, 1) > 0.5).expand(-1, POSITIONS), -math.inf)
        .softmax(-1)
        @ v
    ),
    "in_another_type": lambda q, k, v: (
        F.softmax((q @ k.mT).double(), dim=-1, dtype=torch.float64).to(q.dtype) @ v
    ),
    "with_dropout": lambda q, k, v: F.dropout((q @ k.mT).softmax(-1), 0.5, False) @ v,
    "einsum": lambda q, k, v: torch.einsum(
        "bhij,bjhd->bihd",
        torch.einsum("bhid,bjhd->bhij", q, k.transpose(1, 2)).softmax(-1),
        v.transpose(1, 2),
    ).transpose(1, 2),
    "over_rows": lambda q, k, v: (k @ q.mT).softmax(-2).mT @ v,
    "baddbmm": lambda q, k, v: (
        torch.baddbmm(
            torch.empty(4, POSITIONS, POSITIONS, dtype=q.dtype),
            q.flatten(0, 1),
            k.flatten(0, 1).mT,
            beta=0,
            alpha=0.5,
        )
        .softmax(-1)
        .bmm(v.flatten(0, 1))
        .unflatten(0, (2, 2))
    ),
}


@pytest.mark.slow(but_each=2)
@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_attention_written_out_is_found(name):
    def net(x):
        return image(WRITTEN_OUT[name](heads(x), heads(x * 2), heads(x + 1)), x)

    check_regions(Call(net), SHAPE, most=10)
    plans = check_tiled(Call(net), SHAPE, grids=[(2, 2), (1, 3)])
    assert not any(plan.gathered for plan in plans)
    assert any(e.kind == "ring" for plan in plans for e in plan.exchanges[2])


def test_weights_that_are_read_twice_are_no_chain():
    def net(x):
        weights = (tokens(x) @ x.flatten(2)).softmax(-1)
        return weights @ tokens(x), weights.mean(1)

    for plan in check_tiled(Call(net), SHAPE, grids=[(1, 2)]):
        assert not plan.gathered
        assert "ring" not in {e.kind for e in plan.exchanges[2]}


def test_keys_that_all_ranks_have_stay_there():
    """Cross-attention with the tokens of a text."""

    def net(x, text):
        text = text.unflatten(2, (2, -1)).transpose(1, 2)
        return image(F.scaled_dot_product_attention(heads(x), text, text + 1), x)

    plans = check_tiled(Call(net), SHAPE, (2, 5, 8), grids=[(2, 2)])
    assert not any(plan.gathered for plan in plans)
    assert not any(e.kind == "ring" for plan in plans for e in plan.exchanges[2])


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("from_the_image", [False, True])
def test_keys_that_are_padding(need_weights, from_the_image):
    """A mask of keys is an input of the network, or is computed from the image."""

    def net(m, x, padding):
        y = tokens(x)
        mask = y[..., 0] > 1 if from_the_image else padding > 0.5
        return m[0](y, y, y, key_padding_mask=mask, need_weights=need_weights)[0]

    module = nn.MultiheadAttention(8, 2, batch_first=True)
    plans = check_tiled(Call(net, module), SHAPE, (2, POSITIONS), grids=[(2, 2), (1, 3)])
    assert not any(plan.gathered for plan in plans)


@pytest.mark.long
def test_keys_of_another_value_in_a_volume():
    def net(m, x):
        y = F.avg_pool3d(x, 2)
        return image(F.scaled_dot_product_attention(heads(x), heads(y), heads(m[0](y))), x)

    plans = check_tiled(Call(net, nn.Conv3d(4, 4, 3, padding=1)), (1, 4, 6, 4, 5))
    assert not any(plan.gathered for plan in plans)


@pytest.mark.slow(but_each=3)
@pytest.mark.long
@pytest.mark.parametrize("seed", range(12))
def test_any_heads_sizes_grids_and_masks(seed):
    chance = random.Random(seed)
    count, each = chance.choice([1, 2, 3]), chance.choice([1, 3, 8])
    size = [chance.randint(1, 9), chance.randint(3, 9)]
    tiles = chance.choice([(2, 1), (1, 3), (2, 2), (3, 2), (2, 3), (4, 1)])
    options = chance.choice([{}, {"is_causal": True}, {"scale": 0.2}, {"mask": (1, 1)},
                             {"mask": (count, 1)}, {"mask": (1, 2)}])  # fmt: skip
    values = chance.choice([each, each + 2])
    positions = math.prod(size)

    def net(m, x):
        given = {name: option for name, option in options.items() if name != "mask"}
        if "mask" in options:
            heads_of_mask, kind = options["mask"]
            mask = constant(heads_of_mask, positions, positions)
            given["attn_mask"] = mask > 0 if kind == 2 else mask
        q, k, v = (heads(layer(x), count) for layer in m)
        return image(F.scaled_dot_product_attention(q, k, v, **given), x)

    layers = [nn.Conv2d(3, count * n, 1) for n in (each, each, values)]
    shape = (chance.choice([1, 2]), 3, *size)
    plans = check_tiled(Call(net, *layers), shape, grids=[tiles])
    assert not any(plan.gathered for plan in plans)


@pytest.mark.parametrize("flash", [True, False])
def test_scores_of_few_queries_at_a_time(flash, monkeypatch):
    """Also with PyTorch's kernel, and without it."""
    if not flash:
        monkeypatch.setattr(kernel, "_flash", lambda: None)
    monkeypatch.setattr(kernel, "BLOCK_BYTES", 4096)
    check_tiled(Call(self_attention), SHAPE, grids=[(2, 2)])
    check_tiled(Call(OPERATORS["biased"][0]), SHAPE, grids=[(2, 2)])


@pytest.mark.parametrize("precision", ["bf_16", "fp_16"])
@pytest.mark.parametrize("function", [self_attention, OPERATORS["masked"][0]])
def test_half_precision(function, precision):
    net = Call(lambda m, x: function(m[0](x)), nn.Conv2d(8, 8, 1))
    job = spnb.Job(
        net,
        input_shapes=[SHAPE],
        split_size=1,
        batch_size=2,
        num_spatial_parts=4,
        precision=precision,
    )
    plan = spnb.plan(job)
    assert not plan.gathered
    assert spnb.InProcess(plan, progress=False).infer().check().passed


OPERATORS["with_relative_positions"] = (
    lambda x: image(relative_positions(heads(x), heads(x * 2), heads(x + 1)), x),
    [],
)
TRAINED = ["self_attention", "masked", "rows_without_keys", "causal", "several_heads_of_queries",
           "reduced_keys", "block_of_diffusers", "block_of_latent_diffusion",
           "with_relative_positions"]  # fmt: skip


@pytest.mark.slow(but_each=3)
@pytest.mark.long
@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("fused", [0, 1])
def test_gradients(name, fused):
    function, modules = OPERATORS[name]
    torch.manual_seed(0)
    first, last = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
    operator = Call(function, *modules)
    net = Call(lambda m, x: m[1](m[2](m[0](x))), first, last, operator).double()
    with torch.no_grad():
        like = net(noise(*SHAPE))
    for recompute in (False, True):
        check_training(
            net, noise(*SHAPE), noise(*like.shape, seed=2), [grid(2, 2)], fused=fused,
            recompute=recompute, tolerance=1e-11,
        )  # fmt: skip


@pytest.mark.parametrize("tiles", [(2, 2), (1, 3)])
def test_gradients_of_queries_without_positions(tiles):
    torch.manual_seed(0)
    net = Call(learned_queries, nn.Linear(8, 3, bias=False))
    net = Call(lambda m, x: m[1](m[0](x)), nn.Conv2d(8, 8, 3, padding=1), net).double()
    check_training(
        net, noise(*SHAPE), noise(2, 3, 8, seed=2), [grid(*tiles)], tolerance=1e-11
    )  # fmt: skip


class LearnedBias(nn.Module):
    """A bias for each pair of positions that is trained, as that of window attention."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(8, 8, 1)
        self.bias = nn.Parameter(constant(2, POSITIONS, POSITIONS))

    def forward(self, x):
        y = self.layer(x)
        scores = heads(y) @ heads(y).mT + self.bias
        return image(scores.softmax(-1) @ heads(y * 2), x)


def test_the_gradient_of_a_bias():
    torch.manual_seed(0)
    net = LearnedBias().double()
    x, target = noise(*SHAPE), noise(*SHAPE, seed=2)
    check_training(net, x, target, [grid(1, 3)], tolerance=1e-11)


def test_what_a_tile_holds_and_sends_is_in_the_plan():
    """A tile holds the keys of two tiles, and sends those of each other tile once."""
    channels = 8

    def figures(tiles):
        net = Call(self_attention).double()
        plan = planned(net, (1, channels, 48, 48), [Tiling.even((1, *tiles))])
        return plan, activation_bytes(plan, 0), traffic(plan, 0)[1]

    whole = 48 * 48 * channels * 8
    for tiles in ((1, 4), (2, 4), (4, 4)):
        plan, held, sent = figures(tiles)
        count = math.prod(tiles)
        ring = [e for e in plan.exchanges[1] if e.kind == "ring"]
        assert len(ring) == 2 * (count - 1)  # keys and values
        assert sum(e.sent(0)[1] for e in ring) == sent == 2 * whole // count * (count - 1)
        assert held < 16 * whole / count


def test_training_holds_the_keys_of_all_tiles():
    """Keys and values once, a state for each tile that was read, and no scores."""
    net, shape, count = Call(self_attention).double(), (1, 8, 48, 48), 16
    plan = planned_for_training(net, shape, [Tiling.even((1, 4, 4))])
    whole = math.prod(shape) * 8
    assert 2 * whole < held_value_bytes(plan, 0) < (2 + 2 + 16 / count) * whole
