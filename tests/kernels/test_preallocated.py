"""Results in memory that was allocated before; copied there where PyTorch allocates otherwise."""

import pytest
import torch

from spnb.kernels import preallocated
from spnb.kernels.onednn import FusedConvolution, fuses
from spnb.kernels.preallocated import writing_in_place, written_into


@pytest.fixture
def fresh():
    """The process probes its allocator anew, in a test and after it."""
    preallocated._works.cache_clear()
    yield
    preallocated._works.cache_clear()


def convolved(wanted=True):
    """Convolve into given memory; whether the result was written there, and not copied."""
    weight = torch.randn(4, 4, 3, 3)
    x = torch.randn(1, 4, 8, 8).to(memory_format=torch.channels_last)
    convolution = FusedConvolution("conv2d", (1, 1), (1, 1), (1, 1))
    packed = convolution.reorder(weight, x.shape) if fuses(weight) else weight
    memory = torch.empty(1, 8, 8, 4).movedim(-1, 1)
    own = []

    def call(x):
        own.append(convolution.bind(packed, None)(x))
        return own[0]

    with writing_in_place(wanted):
        found = written_into(call, memory)(x)
    assert found is memory
    assert torch.allclose(found, torch.conv2d(x, weight, padding=1), atol=1e-5)
    return own[0].data_ptr() == memory.data_ptr()


def replaced(monkeypatch):
    """Whether an empty tensor is made by the replacement now."""
    memory = torch.ones(4)
    monkeypatch.setattr(preallocated._expected, "result", memory)
    return torch.empty(0, dtype=torch.float32).untyped_storage().data_ptr() == memory.data_ptr()


def test_a_convolution_is_written_into_its_memory(fresh):
    assert convolved() == fuses(torch.ones(1, 1, 1, 1))


def test_nothing_is_replaced_where_nobody_wants_it(monkeypatch):
    monkeypatch.setattr(preallocated._Replacement, "begin", None)
    assert not convolved(wanted=False)


def test_results_are_copied_where_the_operator_cannot_be_replaced(monkeypatch, fresh):
    def refused(*given):
        raise RuntimeError("no library of this kind")

    monkeypatch.setattr(torch.library, "Library", refused)
    assert not convolved()
    assert preallocated._replacement._users == 0


def test_results_are_copied_where_convolutions_do_not_ask_for_empty_tensors(monkeypatch, fresh):
    monkeypatch.setattr(preallocated._Replacement, "begin", lambda self: None)
    monkeypatch.setattr(preallocated._Replacement, "end", lambda self: None)
    assert not convolved()


def test_a_library_that_cannot_be_destroyed_ends_with_its_object(monkeypatch, fresh):
    monkeypatch.delattr(torch.library.Library, "_destroy")
    assert convolved() == fuses(torch.ones(1, 1, 1, 1))
    assert not replaced(monkeypatch)


def test_the_operator_is_replaced_only_while_a_run_lasts(monkeypatch):
    with writing_in_place():
        with writing_in_place():
            pass
        assert replaced(monkeypatch) == fuses(torch.ones(1, 1, 1, 1))
    assert not replaced(monkeypatch)
