"""Slices, joins, rolls, flips."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from running import planned
from tiled import Call, check, check_tiled, noise
from torch import nn
from torch.nn import functional as F
from training_steps import check as check_training
from training_steps import grid

from spnb.errors import PlanError
from spnb.ir.tiling import Tiling

FEW = settings(max_examples=15, deadline=None, derandomize=True)
SIZES = {1: (2, 4, 19), 2: (2, 4, 9, 11), 3: (1, 2, 5, 6, 5)}


@pytest.mark.long
@FEW
@given(data=st.data(), axes=st.sampled_from([1, 2, 3]))
def test_slice(data, axes):
    index = [slice(None), slice(None)]
    for n in SIZES[axes][2:]:
        start = data.draw(st.integers(0, n - 2))
        stop = data.draw(st.integers(start + 1, n))
        index.append(slice(start, stop, data.draw(st.integers(1, 3))))
    check(Call(lambda x: x[tuple(index)]), SIZES[axes])


@pytest.mark.long
@FEW
@given(data=st.data(), axes=st.sampled_from([1, 2, 3]))
def test_roll(data, axes):
    dims = data.draw(st.permutations(range(2, 2 + axes)))[: data.draw(st.integers(1, axes))]
    shifts = [data.draw(st.integers(-30, 30)) for _ in dims]
    plans = check(Call(lambda x: x.roll(shifts, dims)), SIZES[axes])
    assert not any(plan.gathered for plan in plans)


@pytest.mark.parametrize("dims", [(2, 2), (3, 2, 3), (1, 1)])
def test_roll_along_one_dimension_twice(dims):
    check(Call(lambda x: x.roll((3, 4, -1)[: len(dims)], dims)), SIZES[2])


@pytest.mark.parametrize("size", [(2, 2), (2, 5), (1, 2)])
@pytest.mark.parametrize(
    "function", [lambda x: x.roll((1, 1), (2, 3)), lambda x: F.pad(x, (1, 1, 0, 1), "circular")]
)
def test_a_slice_of_one_position_is_moved(function, size):
    check(Call(function), (1, 3, *size), grids=[(2, 2), (1, 3), (3, 1)])


@pytest.mark.parametrize("dims", [(2,), (3,), (2, 3), (1, 3), (1,)])
def test_flip(dims):
    check(Call(lambda x: x + x.flip(dims)), SIZES[2])


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_cat(dim):
    def net(x):
        return torch.cat([x, x.relu(), x[:, :, :3] if dim == 2 else x], dim)

    check(Call(net), SIZES[2])


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_cat_with_constants(dim):
    def net(x):
        shape = list(x.shape)
        shape[dim] = 3
        ramp = torch.linspace(-1, 1, torch.Size(shape[1:]).numel(), dtype=x.dtype)
        ramp = ramp.view(1, *shape[1:]).expand(shape)
        return torch.cat([x.new_zeros(shape), x, ramp, x + 1], dim)

    assert not any(plan.gathered for plan in check(Call(net), SIZES[2]))


def test_cat_of_rows_that_all_tiles_hold():
    def net(x):
        factors = torch.tensor([1.0, 2.0, 3.0], dtype=x.dtype)[:, None]
        return torch.cat([x, x.mean(2, keepdim=True) * factors], 2)

    assert not any(plan.gathered for plan in check(Call(net), SIZES[2]))


@pytest.mark.parametrize("dim", [0, 1, 2, 4])
def test_stack(dim):
    check(Call(lambda x: torch.stack([x, x.relu(), x.exp()], dim).sum(dim)), SIZES[2])


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_split_and_unbind(dim):
    check(Call(lambda x: [part + 1 for part in x.split(2, dim)]), SIZES[2])
    check(Call(lambda x: [part.relu() for part in x.chunk(3, dim)]), SIZES[2])
    check(Call(lambda x: sum(x.unbind(dim))), SIZES[2])


ALONG_CUT_AXES = {
    "glu": lambda x: F.glu(x, 2) + F.glu(x, 2),
    "glu_of_columns": lambda x: F.glu(x, 3),
    "vertical_split": lambda x: torch.cat(torch.dsplit(x, [3, 5])[::-1], 2),
    "split_of_channels": lambda x: sum(torch.hsplit(x, 2)),
    "copies": lambda x: x.repeat(1, 1, 2, 1),
    "copies_of_both": lambda x: x.repeat(1, 2, 2, 3),
    "copies_of_one_row": lambda x: x.mean(2, keepdim=True).repeat(1, 1, 8, 2),
    "pooled_tokens": lambda x: F.avg_pool1d(x.flatten(2), 4),
    "pooled_rows_of_tokens": lambda x: F.max_pool1d(x.flatten(2), 36),
    "windows_of_tokens": lambda x: x.flatten(2).unfold(2, 24, 24).amax(-1),
}


@pytest.mark.slow(but_each=2)
@pytest.mark.parametrize("name", ALONG_CUT_AXES)
def test_an_operator_along_cut_axes_is_not_gathered(name):
    for plan in check_tiled(Call(ALONG_CUT_AXES[name]), (2, 4, 8, 12), grids=[(2, 2), (3, 1)]):
        assert not plan.gathered


@pytest.mark.parametrize("length", [5, 32, 95])
@pytest.mark.parametrize("pool", [F.avg_pool1d, F.max_pool1d])
def test_pools_of_tokens_that_rows_break_are_merged(pool, length):
    net = Call(lambda x: pool(x.flatten(2), length) + x.mean((2, 3))[..., None])
    plans = check(net, (2, 4, 8, 12), parts=2)
    assert not any(plan.gathered for plan in plans)


@pytest.mark.parametrize("length", [4, 5])
def test_keys_are_pooled_tokens(length):
    """The attention of NextViT (Li et al., *Next-ViT*, 2022)."""

    def attend(m, x):
        tokens = x.flatten(2)
        keys = m[1](F.avg_pool1d(tokens, length)).mT[:, None]
        y = F.scaled_dot_product_attention(tokens.mT[:, None], keys, m[2](keys))
        return m[0](y[:, 0].mT.reshape(x.shape))

    net = Call(attend, nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm1d(4), nn.Linear(4, 4))
    for plan in check_tiled(net, (2, 4, 6, 8), grids=[(2, 2), (1, 3)]):
        assert not plan.gathered
    x, target = noise(1, 4, 6, 8), noise(1, 4, 6, 8, seed=2)
    trained = nn.Sequential(nn.Conv2d(4, 4, 1), net).double().train()
    check_training(trained, x, target, [grid(2, 2)], steps=1)


def test_the_gradient_of_maxima_of_tokens():
    def net(m, x):
        return m[0](x) * F.max_pool1d(x.flatten(2), 5).mean(2)[..., None, None]

    x, target = noise(1, 4, 6, 8), noise(1, 4, 6, 8, seed=2)
    trained = nn.Sequential(nn.Conv2d(4, 4, 1), Call(net, nn.Conv2d(4, 4, 1))).double()
    check_training(trained, x, target, [grid(2, 2)], steps=1)


def test_nodata_is_the_largest_of_its_tokens():
    def net(x):
        return F.max_pool1d(torch.where(x > 1.5, torch.nan, x).flatten(2), 5)

    check_tiled(Call(net), (2, 4, 8, 12), grids=[(2, 2)])


@pytest.mark.parametrize("pool", [partial(F.avg_pool1d, stride=1), partial(F.max_pool1d, stride=2)])
def test_other_windows_of_tokens_that_rows_break_are_refused(pool):
    net = Call(lambda x: pool(x.flatten(2), 5))
    with pytest.raises(PlanError, match=r"pool1d, used like this, needs the whole extent 8×12"):
        planned(net, [(1, 4, 8, 12)], [Tiling.even((1, 2, 2))])


@pytest.mark.parametrize(
    "rows", [[5, 0, 7, 1, 4, 2, 6, 3], [7, 6, 5, 4, 3, 2, 1, 0], [-1, 0, 0, 3, 1], [6]]
)
def test_rows_in_any_order(rows):
    for plan in check(Call(lambda x: x[:, :, rows] * 2), (1, 2, 8, 5)):
        assert not plan.gathered


def test_a_tile_receives_the_rows_that_it_needs_and_no_others():
    net = Call(lambda x: x[:, :, [0, 4, 1, 5, 2, 6, 3, 7]])
    plan = planned(net, [(1, 2, 8, 5)], [Tiling.even((1, 2, 1))])
    moved = [e.total[1] for e in plan.exchanges[1] if e.kind == "halo"]
    assert sum(moved) == 4 * 5 * 2 * 8  # each tile gives two rows of five columns


def test_one_row_for_all():
    check(Call(lambda x: x * x[:, :, 3:4]), SIZES[2])
    check(Call(lambda x: x * x[:, :, -1].unsqueeze(2)), SIZES[2])


def test_channels_picked_by_numbers():
    check(Call(lambda x: x[:, torch.tensor([3, 0, 0])]), SIZES[2])
    check(Call(lambda x: x.index_select(1, torch.tensor([1, 2]))), SIZES[2])


def assigned(index, value):
    def net(x):
        y = x.relu()
        y[index] = value(x)
        return y * 2

    return Call(net)


@pytest.mark.long
@pytest.mark.parametrize(
    "index, value",
    [
        ((slice(None), slice(1, 3)), lambda x: x[:, :2]),
        ((slice(None), slice(None), slice(2, 7)), lambda x: x[:, :, 1:6]),
        ((slice(None), slice(None), slice(2, 7), slice(-3, None)), lambda x: 1.5),
        ((slice(None), 2), lambda x: x[:, 0]),
        (
            (slice(None), slice(None), slice(1, 8, 3), slice(None, None, 2)),
            lambda x: x[..., :3, :6],
        ),
        ((slice(None), slice(None), -2), lambda x: x[:, :, 0]),
    ],
)
def test_assignment_to_a_slice(index, value):
    check(assigned(index, value), SIZES[2])


@pytest.mark.long
def test_an_image_put_together_from_strided_slices():
    def net(x):
        y = torch.zeros(x.shape[0], 1, 2 * x.shape[2], 2 * x.shape[3], dtype=x.dtype)
        for k in range(4):
            y[:, :, k // 2 :: 2, k % 2 :: 2] = x[:, k : k + 1]
        return y

    check(Call(net), SIZES[2])


def test_data_is_followed():
    check(Call(lambda x: x.data * 2 + x.detach()), SIZES[2])
