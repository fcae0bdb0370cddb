"""Products and sums by channel equal those of elementwise operators, wherever numbers lie."""

import pytest
import torch

from spnb.kernels import channelwise

SHAPES = [(1, 3, 5, 4), (4, 16, 1, 1), (2, 6, 7), (3, 5, 2, 3, 2), (2, 4, 0, 3)]


def given(shape, of_each_image, dtype, last):
    """An image, a gradient, and two figures whose numbers do not lie side by side."""
    torch.manual_seed(0)
    x, g = (torch.randn(shape, dtype=torch.float64).to(dtype) + 3 for _ in range(2))
    if last and len(shape) == 4:
        x, g = (each.to(memory_format=torch.channels_last) for each in (x, g))
    numbers = (shape[0] if of_each_image else 1, shape[1], *[1] * (len(shape) - 2))
    return x, g, *torch.randn(*numbers, 3, dtype=torch.float64).to(dtype).unbind(-1)[1:]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("of_each_image", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("last", [False, True])
def test_products_and_sums_of_channels(shape, of_each_image, dtype, last):
    x, g, factor, term = given(shape, of_each_image, dtype, last)
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0, "atol": 1e-12}
    torch.testing.assert_close(channelwise.scaled(x, factor, term), x * factor + term, **close)
    torch.testing.assert_close(channelwise.scaled(x, factor), x * factor, **close)
    found = channelwise.sums(x, term, of=g)
    assert (found is None) == (not x.is_contiguous() or x.numel() == 0)
    if found is not None:
        dims = [d for d, n in enumerate(term.shape) if n == 1]
        torch.testing.assert_close(found[0], g.sum(dims, keepdim=True), **close)
        products = (g * (x - term)).sum(dims, keepdim=True)
        torch.testing.assert_close(found[1], products, **close)


def test_other_types_are_computed_by_elementwise_operators():
    x = torch.ones(1, 2, 3, 3, dtype=torch.bfloat16)
    factor = torch.full((1, 2, 1, 1), 2.0)
    assert torch.equal(channelwise.scaled(x, factor), x * factor)
    assert channelwise.sums(x, factor, of=x) is None
