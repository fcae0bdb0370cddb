"""Fused convolutions equal one call after another; without oneDNN they are that."""

import pytest
import torch
from torch.nn import functional

import spnb
from spnb.kernels import onednn
from spnb.kernels.onednn import ACTIVATIONS, AFTER_ADDITION, FusedConvolution
from spnb.kernels.preallocated import written_into

OPTIONS = {
    "leaky_relu": {"negative_slope": 0.3},
    "hardtanh": {"min_val": -0.2, "max_val": 0.4},
}
OPERATORS = ("_reorder_convolution_weight", "_convolution_pointwise", "_convolution_pointwise_")


@pytest.fixture
def fresh():
    """The process probes oneDNN anew, in a test and after it."""
    onednn._fuses_rightly.cache_clear()
    yield
    onednn._fuses_rightly.cache_clear()


class Without:
    """PyTorch's operators of oneDNN, but for some."""

    def __init__(self, *names):
        self._names, self._all = names, torch.ops.mkldnn

    def __getattr__(self, name):
        if name in self._names:
            raise AttributeError(name)
        return getattr(self._all, name)


def without(monkeypatch, *names):
    monkeypatch.setattr(torch.ops, "mkldnn", Without(*names))


@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("count", [2, 3])
def test_one_call_equals_one_after_another(activation, adds, count):
    windows = ((2,) * count, (1,) * count, (1,) * count)
    options = OPTIONS.get(activation, {})
    convolution = FusedConvolution(f"conv{count}d", *windows, 2, adds, activation, options)
    weight, bias = torch.randn(4, 2, *(3,) * count), torch.randn(4)
    x, other = torch.randn(2, 4, *(7,) * count), torch.randn(2, 4, *(4,) * count)
    operands = (x, other) if adds else (x,)
    expected = getattr(functional, f"conv{count}d")(x, weight, bias, 2, 1, 1, 2)
    expected = expected + other if adds else expected
    if activation:
        expected = getattr(torch.ops.aten, activation).default(expected, **options)
    assert torch.allclose(convolution.bind(weight, bias)(*operands), expected, atol=1e-5)
    if not onednn.fuses(weight) or (adds and activation not in (None, *AFTER_ADDITION)):
        return
    packed = convolution.reorder(weight, x.shape)
    assert torch.allclose(convolution.bind(packed, bias)(*operands), expected, atol=1e-5)
    if adds:
        found = convolution.bind(packed, bias, overwrites=True)(*operands)
        assert found.data_ptr() == other.data_ptr()
        assert torch.allclose(found, expected, atol=1e-5)


SPECIAL = {
    "nan": float("nan"),
    "inf": float("inf"),
    "-inf": -float("inf"),
    "overflow": 3e38,
    "-overflow": -3e38,
}


@pytest.mark.parametrize("where", ["input", "other", "weight", "bias"])
@pytest.mark.parametrize("number", SPECIAL)
@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
@pytest.mark.parametrize("overwrites", [False, True])
def test_what_is_no_number_goes_through(where, number, activation, overwrites):
    adds = activation in (None, *AFTER_ADDITION)
    options = OPTIONS.get(activation, {})
    if activation == "hardswish" and "overflow" in number:
        return  # PyTorch's own multiplies by 6 before it divides by 6, and oneDNN's does not
    # PyTorch itself is free to skip, or not, the products of a padding zero and a weight of NaN.
    pad = 0 if where == "weight" else 1
    windows = ((1, 1), (pad, pad), (1, 1))
    convolution = FusedConvolution("conv2d", *windows, 1, adds, activation, options)
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    named = {"input": draw(1, 3, 6, 6), "other": draw(1, 4, 4 + 2 * pad, 4 + 2 * pad)}
    named |= {"weight": draw(4, 3, 3, 3), "bias": draw(4)}
    named[where].view(-1)[[1, 2]] = SPECIAL[number]
    operands = [named["input"], named["other"]][: 1 + adds]
    weight, bias = named["weight"], named["bias"]
    expected = convolution.bind(weight, bias)(*operands)
    packed = convolution.reorder(weight, named["input"].shape)
    found = convolution.bind(packed, bias, overwrites and adds)(*operands)
    assert torch.equal(found.isnan(), expected.isnan())
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5, equal_nan=True)


def test_numbers_are_still_written_into_the_memory_that_is_given():
    convolution = FusedConvolution("conv2d", (1, 1), (0, 0), (1, 1), activation="relu")
    weight, memory = torch.ones(2, 2, 1, 1), torch.zeros(1, 2, 3, 3)
    packed = convolution.reorder(weight, memory.shape)
    call, seen = convolution.bind(packed, None), []
    into = written_into(lambda x: seen.append(call(x)) or seen[-1], memory)
    with torch.inference_mode():
        for x in (torch.ones(1, 2, 3, 3), torch.full((1, 2, 3, 3), float("nan"))):
            found = into(x)
            assert found.data_ptr() == memory.data_ptr()
            assert torch.equal(found.isnan(), x.isnan())
    assert seen[0].data_ptr() == memory.data_ptr()


@pytest.mark.parametrize("missing", OPERATORS)
def test_nothing_is_fused_without_one_of_the_operators(monkeypatch, fresh, missing):
    without(monkeypatch, missing)
    assert not onednn.fuses(torch.ones(1, 1, 1, 1))


def test_nothing_is_fused_where_an_operator_computes_something_else(monkeypatch, fresh):
    monkeypatch.setattr(FusedConvolution, "bind", lambda *given: lambda *x: torch.zeros(1, 2, 4, 4))
    assert not onednn.fuses(torch.ones(1, 1, 1, 1))


def test_only_fp32_is_fused_and_nothing_where_onednn_is_switched_off():
    assert not onednn.fuses(torch.ones(1, 1, 1, 1, dtype=torch.float64))
    with torch.backends.mkldnn.flags(enabled=False):
        assert not onednn.fuses(torch.ones(1, 1, 1, 1))


def test_half_precision_is_not_taken_for_granted(monkeypatch):
    without(monkeypatch, "_is_mkldnn_fp16_supported", "_is_mkldnn_bf16_supported")
    found = [onednn.convolves(d) for d in (torch.float16, torch.bfloat16, torch.float32)]
    assert found == [False, False, True]


def test_a_plan_runs_without_the_operators(monkeypatch, fresh):
    without(monkeypatch, *OPERATORS)
    layers = [torch.nn.Conv2d(4, 4, 3, padding=1), torch.nn.ReLU()]
    net = torch.nn.Sequential(*layers, *layers)
    job = spnb.Job(
        net, input_shapes=[(1, 4, 24, 24)], batch_size=1, split_size=1, num_spatial_parts=2
    )
    session = spnb.InProcess(spnb.plan(job))
    for _ in range(2):
        assert session.infer().check().passed
