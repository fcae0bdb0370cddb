"""Transposed convolution, folding."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tiled import Call, check
from torch import nn
from torch.nn import functional as F

FEW = settings(max_examples=15, deadline=None, derandomize=True)
SIZES = {1: (2, 4, 17), 2: (2, 4, 7, 6), 3: (1, 4, 4, 3, 5)}
LAYERS = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


@pytest.mark.long
@FEW
@given(data=st.data(), axes=st.sampled_from([1, 2, 3]))
def test_transposed_convolution(data, axes):
    numbers = lambda low, high: data.draw(st.tuples(*[st.integers(low, high)] * axes))  # noqa: E731
    stride, dilation = numbers(1, 4), numbers(1, 2)
    extra = tuple(
        data.draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)
    )
    kernel, padding = numbers(1, 4), numbers(0, 2)
    sizes = zip(SIZES[axes][2:], stride, dilation, kernel, padding, extra, strict=True)
    assume(all((n - 1) * s + d * (k - 1) + 1 - 2 * p + e > 0 for n, s, d, k, p, e in sizes))
    groups, bias = data.draw(st.sampled_from([1, 2])), data.draw(st.booleans())
    layer = LAYERS[axes](4, 6, kernel, stride, padding, extra, groups, bias, dilation)
    check(layer, SIZES[axes], grids=None if axes < 3 else [(2, 1, 2)])


@pytest.mark.long
@FEW
@given(data=st.data())
def test_fold_of_unfold(data):
    kernel, stride = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    options = {
        "kernel_size": kernel,
        "stride": stride,
        "padding": data.draw(st.integers(0, 2)),
        "dilation": data.draw(st.integers(1, 2)),
    }
    reach = options["dilation"] * (kernel - 1) + 1
    assume(reach <= 11 + 2 * options["padding"])
    net = Call(lambda x: F.fold(F.unfold(x, **options), x.shape[2:], **options))
    check(net, (2, 2, 13, 11))
