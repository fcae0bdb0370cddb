"""Calls that overwrite memory which several values share."""

import random

import pytest
import torch
from tiled import Call, check_tiled
from torch.nn import functional as F

from spnb.capture import export
from spnb.errors import CaptureError

SHAPE = (1, 4, 6, 8)


@pytest.fixture
def decomposed(monkeypatch):
    """The number of times that PyTorch's own decomposition, which takes long, was needed."""
    times, plain = [], export._decomposed
    monkeypatch.setattr(export, "_decomposed", lambda *a: times.append(1) or plain(*a))
    return times


def view_of_what_is_not_read_again(x):
    y = x * 2
    z = y[:, :2]
    z += x[:, :2]
    z.relu_()
    return z * x[:, 2:]


def base_of_what_is_not_read_again(x):
    y = x * 2
    before = y[:, 1:].sum(1, keepdim=True)
    y.relu_()
    return y + before


def both_are_read(x):
    y = x * 2
    z = y[:, :2]
    z += 1
    return y * x


def another_view_is_read(x):
    y = x * 2
    a, b = y[:, :2], y[:, 1:3]
    a += 1
    return a * b


def renamed_and_read(x):
    y = x * 2
    z = y.tanh_()[:, :2]
    z.mul_(3)
    return y + x


def view_of_a_view(x):
    y = x * 2
    v = y[:, :2]
    v[:, :1].add_(1)
    return v + x[:, :2]


def chunk(x):
    y = x * 2
    a, _ = y.chunk(2, 1)
    a.add_(1)
    return y * x


def base_of_a_split(x):
    y = x * 2
    a, b = y.split(2, 1)
    y.add_(1)
    return a * b


def one_of_many(x):
    y = x * 2
    y.unbind(1)[0].mul_(5)
    return y + 1


def twice(x):
    y = x * 2
    z = y[:, :2]
    z += 1
    a = y.sum(1, keepdim=True) + z
    z.mul_(a[:, :1])
    y.tanh_()
    return y * x + y[:, :1]


def one_view_after_another(x):
    y = x * 2
    for channel in range(4):
        y[:, channel].add_(channel)
        y[:, channel, 1:3, ::2] = x[:, 0, 1:3, ::2]
    return y * x


def a_mask(x):
    """As that of shifted windows."""
    mask = torch.zeros(1, *x.shape[2:], 1, dtype=x.dtype)
    for number, rows in enumerate((slice(0, -2), slice(-2, -1), slice(-1, None))):
        for columns in (slice(0, 3), slice(3, None)):
            mask[:, rows, columns, :] = number
    return x * mask.permute(0, 3, 1, 2)


def of_every_kind(x):
    y = x * 2
    y.permute(0, 2, 3, 1)[..., 1].neg_()
    y.transpose(2, 3)[:, :, 2:4] += 1
    y.view(4, 48)[1] *= x.view(4, 48)[2]
    y[0].unsqueeze(0)[:, 2].exp_()
    y.detach().squeeze(0).mT[3].clamp_(max=0.2)
    return y + x


NOT_DECOMPOSED = [
    view_of_what_is_not_read_again, base_of_what_is_not_read_again, both_are_read,
    renamed_and_read, view_of_a_view, twice, one_view_after_another, a_mask, of_every_kind,
]  # fmt: skip


@pytest.mark.parametrize("function", NOT_DECOMPOSED)
def test_what_needs_no_decomposition(function, decomposed):
    check_tiled(Call(function), SHAPE, grids=[(2, 2)], fused=[0])
    assert not decomposed


@pytest.mark.parametrize(
    "function",
    [another_view_is_read, chunk, base_of_a_split, one_of_many],
)
def test_what_is_read_again_shows_what_was_written(function):
    check_tiled(Call(function), SHAPE, grids=[(2, 2)], fused=[0])


@pytest.mark.parametrize(
    "shares",
    [
        lambda y: torch.einsum("bchw->bhwc", y),
        lambda y: y.unsafe_chunk(2, 1)[0],
    ],
)
def test_memory_that_pytorch_does_not_say_is_shared_is_refused(shares):
    def net(x):
        y = x * 2
        shares(y).mul_(3)
        return y + 1

    with pytest.raises(CaptureError, match=r"\(mul_\) overwrites what .* may share.*\.clone\(\)"):
        check_tiled(Call(net), SHAPE, grids=[(1, 2)])


def test_a_dropout_that_is_off_is_its_operand_or_refused():
    def net(x):
        y = x * 2
        F.dropout(y, 0.5, training=False).mul_(3)
        return y + 1

    try:  # from PyTorch 2.14 on, the exported program reads what was written
        check_tiled(Call(net), SHAPE, grids=[(1, 2)])
    except CaptureError as error:
        assert "may share with its operand" in str(error)


def test_a_dropout_that_is_off_may_be_overwritten_alone():
    def net(x):
        z = F.dropout(x * 2, 0.5, training=False)
        z += x
        return z * x

    check_tiled(Call(net), SHAPE, grids=[(1, 2)], fused=[0])


class Writes(torch.nn.Module):
    """Views of one tensor, made, read and overwritten in an order that a number says."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def forward(self, x):
        chance = random.Random(self.number)
        values, read = [x * 2, x + 1], x
        for _ in range(chance.randint(3, 9)):
            value = chance.choice(values)
            what = chance.random()
            if what < 0.45:
                values.append(VIEWS[chance.randrange(len(VIEWS))](value))
            elif what < 0.8:
                chance.choice([torch.Tensor.neg_, torch.Tensor.tanh_, add_mean])(value)
            else:
                read = read + value.mean()
        return read, *(value * 1 for value in values)


def add_mean(value):
    value += value.mean()


VIEWS = [
    lambda v: v[0] if v.ndim > 2 else v[:1],
    lambda v: v[..., 1:],
    lambda v: v[..., ::2],
    lambda v: v.mT,
    lambda v: v.unsqueeze(0),
    lambda v: v.select(-1, -1) if v.ndim > 2 else v[:, :1],
    lambda v: v.permute(*range(1, v.ndim), 0),
    lambda v: v.squeeze(0),
    lambda v: v.unbind(0)[0] if v.ndim > 2 else v.view(v.shape),
    lambda v: v.chunk(2, -1)[0],
]


@pytest.mark.slow(but_each=4)
@pytest.mark.parametrize("number", range(40))
def test_writes_in_any_order(number):
    check_tiled(Writes(number), SHAPE, grids=[(1, 2)], fused=[0], allow_gather=True)
