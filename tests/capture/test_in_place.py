"""Calls that overwrite memory which several values share."""

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


@pytest.mark.parametrize(
    "function", [view_of_what_is_not_read_again, base_of_what_is_not_read_again]
)
def test_what_is_not_read_again_needs_no_decomposition(function, decomposed):
    check_tiled(Call(function), SHAPE, grids=[(2, 2)], fused=[0])
    assert not decomposed


@pytest.mark.parametrize(
    "function",
    [both_are_read, another_view_is_read, renamed_and_read, view_of_a_view, chunk,
     base_of_a_split, one_of_many],
)  # fmt: skip
def test_what_is_read_again_shows_what_was_written(function):
    check_tiled(Call(function), SHAPE, grids=[(2, 2)], fused=[0])


@pytest.mark.parametrize(
    "shares",
    [
        lambda y: F.dropout(y, 0.5, training=False),
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


def test_a_dropout_that_is_off_may_be_overwritten_alone():
    def net(x):
        z = F.dropout(x * 2, 0.5, training=False)
        z += x
        return z * x

    check_tiled(Call(net), SHAPE, grids=[(1, 2)], fused=[0])
