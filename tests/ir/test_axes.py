"""Where the axes of the image lie in tensors of any shape."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spnb.ir.axes import Axes, Factor, dim
from spnb.ir.broadcasting import broadcast, fitted
from spnb.ir.region import Region

LAYOUTS = {
    "image": Axes.image((2, 3, 4, 6)),
    "channels last": Axes((dim(2, 0), dim(4, 1), dim(6, 2), dim(3)), 3),
    "tokens": Axes((dim(2, 0), (Factor(4, 1), Factor(6, 2)), dim(3)), 3),
    "windows": Axes(((Factor(2, 0), Factor(4, 1), Factor(6, 2)), dim(5), dim(3)), 3),
    "one row": Axes((dim(2, 0), dim(3), (), dim(6, 2)), 3),
    "uncut": Axes.uncut((3, 7), 3),
}


@st.composite
def regions(draw, inside):
    spans = []
    for low, high in inside.spans:
        a = draw(st.integers(low, high))
        spans.append((a, draw(st.integers(a, high))))
    return Region(tuple(spans))


@pytest.mark.parametrize("name", LAYOUTS)
@given(data=st.data())
def test_pieces_are_what_indexing_the_factors_gives(name, data):
    axes = LAYOUTS[name]
    x = torch.arange(torch.Size(axes.shape).numel()).reshape(axes.shape)
    whole = Region.whole(axes.extent)
    held = data.draw(regions(whole))
    wanted = data.draw(regions(held))
    first = axes.piece(x, whole, held)
    assert first.shape == axes.local_shape(held)
    piece = axes.piece(first, held, wanted)
    assert torch.equal(piece, axes.piece(x, whole, wanted))
    assert piece.numel() == wanted.size * axes.channels or wanted.empty
    copy = torch.full_like(first.contiguous(), -1)
    axes.put(copy, held, wanted, piece)
    assert torch.equal(axes.piece(copy, held, wanted), piece)
    assert int((copy >= 0).sum()) == piece.numel()


def test_extent_and_channels():
    assert LAYOUTS["windows"].extent == (2, 4, 6)
    assert LAYOUTS["windows"].channels == 15
    assert LAYOUTS["one row"].extent == (2, 1, 6)
    assert LAYOUTS["uncut"].extent == (1, 1, 1)
    assert Axes.image((2, 7), rank=3).extent == (2, 1, 1)


def test_an_axis_is_taken_once():
    x, row = LAYOUTS["image"], LAYOUTS["one row"]
    assert broadcast((2, 3, 4, 6), [Axes.image((2, 3, 1, 1)), x], 3) == x
    turned = Axes((dim(2, 0), dim(3), dim(6, 2), dim(6)), 3)
    assert broadcast((2, 3, 6, 6), [turned, row], 3) == turned


def test_what_is_held_whole_is_cut_to_fit():
    result, region = LAYOUTS["image"], Region(((1, 2), (1, 3), (2, 6)))
    x = torch.arange(24.0).reshape(4, 6)
    assert torch.equal(fitted(x, Axes.uncut((4, 6), 3), result, region), x[1:3, 2:6])
    row = torch.arange(6.0)
    assert torch.equal(fitted(row, Axes.uncut((6,), 3), result, region), row[2:6])
    tokens = torch.arange(48.0).reshape(2, 24, 1)
    found = fitted(tokens, Axes.uncut((2, 24, 1), 3), LAYOUTS["tokens"], region)
    assert torch.equal(found, tokens[1:2].view(1, 4, 6)[:, 1:3, 2:6].reshape(1, 8, 1))
