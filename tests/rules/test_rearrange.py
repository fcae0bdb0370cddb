"""Slices, joins, rolls, flips."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiled import Call, check
from torch.nn import functional as F

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


def test_an_image_put_together_from_strided_slices():
    def net(x):
        y = torch.zeros(x.shape[0], 1, 2 * x.shape[2], 2 * x.shape[3], dtype=x.dtype)
        for k in range(4):
            y[:, :, k // 2 :: 2, k % 2 :: 2] = x[:, k : k + 1]
        return y

    check(Call(net), SIZES[2])


def test_data_is_followed():
    check(Call(lambda x: x.data * 2 + x.detach()), SIZES[2])
