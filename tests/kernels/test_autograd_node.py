"""A node of autograd's graph in one call, and that of a convolution in two."""

import pytest
import torch
from torch.autograd.graph import get_gradient_edge
from torch.nn import functional as F

from spnb.kernels import autograd_node
from spnb.kernels.autograd_node import differentiating, gradients_between
from spnb.kernels.compat import TorchDispatchMode


def convolved(bias=True, trained=True, of_input=True, transposed=False):
    torch.manual_seed(0)
    x = torch.randn(2, 4, 7, 6, dtype=torch.float64, requires_grad=of_input)
    weight = torch.randn(4, 4, 3, 3, dtype=torch.float64, requires_grad=trained)
    b = torch.randn(4, dtype=torch.float64, requires_grad=trained) if bias else None
    function = F.conv_transpose2d if transposed else F.conv2d
    return function(x, weight, b, stride=2, padding=1)


def together(node, g):
    """The gradients that a node gives in two calls, the second one's where the first has none."""
    with torch.no_grad():
        first, later = differentiating(node)(node, [g])
        second = later() if later else [None] * len(first)
    assert not any(a is not None and b is not None for a, b in zip(first, second, strict=True))
    return [b if a is None else a for a, b in zip(first, second, strict=True)], later


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("of_input", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_gradients_of_a_convolution_in_two_calls(bias, trained, of_input, transposed):
    if not (trained or of_input):
        return
    result = convolved(bias, trained, of_input, transposed)
    g = torch.randn_like(result)
    found, later = together(result.grad_fn, g)
    assert (later is not None) == (trained and of_input)
    for each, wanted in zip(found, result.grad_fn(g), strict=True):
        assert (each is None) == (wanted is None)
        assert wanted is None or torch.equal(each, wanted)
        assert wanted is None or not each.requires_grad


@pytest.mark.parametrize("bias", [False, True])
def test_filters_come_first_of_a_large_image(bias, monkeypatch):
    """Their copy of the image is freed before its gradient is made; later is nothing left."""
    monkeypatch.setattr(autograd_node, "LARGE", 2 * 4 * 7 * 6 * 8)
    asked = []

    class Asked(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is torch.ops.aten.convolution_backward.default:
                asked.append(args[-1])
            return function(*args, **(kwargs or {}))

    result = convolved(bias)
    g = torch.randn_like(result)
    with Asked():
        found, later = together(result.grad_fn, g)
    assert later is None
    assert asked == [[False, True, bias], [True, False, False]]
    for each, wanted in zip(found, result.grad_fn(g), strict=True):
        assert (each is None) == (wanted is None)
        assert wanted is None or torch.equal(each, wanted)


def test_gradients_between_edges_are_those_of_autograd():
    """With a given tensor on which no result depends, and a result without gradient."""
    x, y, z = (torch.randn(3, requires_grad=True) for _ in range(3))
    results, gradients = [(x * y).exp(), x.sin()], [torch.randn(3), torch.randn(3)]
    wanted = torch.autograd.grad(
        results, [x, y, z], gradients, allow_unused=True, retain_graph=True
    )
    edges = [get_gradient_edge(each) for each in results]
    found = gradients_between(edges, gradients, [get_gradient_edge(each) for each in (x, y, z)])
    assert found[2] is None and wanted[2] is None
    assert all(torch.equal(a, b) for a, b in zip(found[:2], wanted[:2], strict=True))


def test_other_nodes_are_called_once():
    x = torch.randn(3, requires_grad=True)
    found, later = together(x.exp().grad_fn, torch.ones(3))
    assert later is None
    torch.testing.assert_close(found[0], x.detach().exp())


def test_a_convolution_whose_values_are_not_told_is_called_once(monkeypatch):
    monkeypatch.setattr(autograd_node, "_SAVED", ("no such value",))
    result = convolved()
    found, later = together(result.grad_fn, torch.ones_like(result))
    assert later is None
    assert all(each is not None for each in found)
