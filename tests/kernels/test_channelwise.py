"""Products, sums and norms by channel equal those of elementwise operators."""

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


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("of_each_image", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("last", [False, True])
def test_moments_of_channels(shape, of_each_image, dtype, last):
    x, _, figure, _ = given(shape, of_each_image, dtype, last)
    found = channelwise.moments(x, figure.shape)
    assert (found is None) == (not x.is_contiguous() or x.numel() == 0)
    if found is not None:
        dims = [d for d, n in enumerate(figure.shape) if n == 1]
        wanted = torch.var_mean(x.double(), dims, correction=0, keepdim=True)
        close = {"rtol": 1e-6, "atol": 1e-6} if dtype == torch.float32 else {}
        for each, other in zip(found, reversed(wanted), strict=True):
            torch.testing.assert_close(each.double(), other, **close)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_norm_by_given_figures_and_its_gradients(weighted):
    torch.manual_seed(0)
    x, g = (torch.randn(2, 3, 5, 4, dtype=torch.float64) for _ in range(2))
    figures = torch.rand(3, 4, dtype=torch.float64) + 0.5  # each strided: no run of memory
    mean, variance, weight, bias = figures.unbind(1)
    weights = (weight, bias) if weighted else (None, None)
    norm = channelwise.ChannelNorm(mean, variance, *weights, eps=0.1)
    x.requires_grad_()
    leaves = [x, *(w.detach().requires_grad_() for w in weights if w is not None)]
    y = (x - mean.view(3, 1, 1)) / (variance.view(3, 1, 1) + 0.1).sqrt()
    if weighted:
        y = y * leaves[1].view(3, 1, 1) + leaves[2].view(3, 1, 1)
    torch.testing.assert_close(norm.of(x.detach()), y.detach())
    wanted = torch.autograd.grad(y, leaves, g)
    found = norm.backward(g, x.detach(), of_x=True)
    for each, other in zip(found, wanted, strict=False):
        torch.testing.assert_close(each, other)
    assert norm.backward(g, x.detach(), of_x=False)[0] is None
