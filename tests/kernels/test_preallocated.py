"""Results in memory that was allocated before; copied there where PyTorch allocates otherwise."""

import threading

import pytest
import torch

from spnb.kernels import preallocated
from spnb.kernels.onednn import FusedConvolution, fuses
from spnb.kernels.preallocated import written_into


@pytest.fixture
def fresh():
    """The process probes its allocator anew, in a test and after it."""
    preallocated._works.cache_clear()
    yield
    preallocated._works.cache_clear()


def convolved():
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

    found = written_into(call, memory)(x)
    assert found is memory
    assert torch.allclose(found, torch.conv2d(x, weight, padding=1), atol=1e-5)
    return own[0].data_ptr() == memory.data_ptr()


def test_a_convolution_is_written_into_its_memory(fresh):
    assert convolved() == fuses(torch.ones(1, 1, 1, 1))


def test_a_convolution_that_adds_is_written_into_its_memory():
    weight = torch.randn(4, 4, 3, 3)
    if not fuses(weight):
        pytest.skip("oneDNN does not fuse here")
    x, other = (torch.randn(2, 8, 8, 4).movedim(-1, 1) for _ in range(2))
    convolution = FusedConvolution("conv2d", (1, 1), (1, 1), (1, 1), adds=True, activation="relu")
    call = convolution.bind(convolution.reorder(weight, x.shape), None)
    expected = torch.relu(torch.conv2d(x, weight, padding=1) + other)
    cases = {"whole": x, "a part": torch.randn(2, 8, 9, 4).movedim(-1, 1)[..., 1:].copy_(x)}
    for name, image in cases.items():
        memory, own = torch.empty(2, 8, 8, 4).movedim(-1, 1), []

        def noted(*operands, own=own):
            own.append(call(*operands))
            return own[0]

        found = written_into(noted, memory, final_size=True)(image, other)
        assert found is memory
        assert torch.allclose(found, expected, atol=1e-5), name
        assert name != "whole" or own[0].data_ptr() == memory.data_ptr()


@pytest.mark.parametrize("images", [1, 2])
def test_a_convolution_that_adds_is_written_between_rows_for_a_halo(images):
    weight = torch.randn(4, 4, 3, 3)
    x, other = (torch.randn(images, 8, 8, 4).movedim(-1, 1) for _ in range(2))
    convolution = FusedConvolution("conv2d", (1, 1), (1, 1), (1, 1), adds=True)
    packed = convolution.reorder(weight, x.shape) if fuses(weight) else weight
    memory = torch.zeros(images, 10, 8, 4)[:, 1:9].movedim(-1, 1)
    found = written_into(convolution.bind(packed, None), memory, final_size=True)(x, other)
    assert found is memory
    assert torch.allclose(found, torch.conv2d(x, weight, padding=1) + other, atol=1e-5)


def refused(*given):
    raise RuntimeError("no such key")


@pytest.mark.parametrize("missing", ["_registered", "_switch"])
def test_results_are_copied_where_the_operator_cannot_be_replaced(monkeypatch, fresh, missing):
    monkeypatch.setattr(preallocated, missing, refused)
    assert not convolved()


def test_results_are_copied_where_convolutions_do_not_ask_for_empty_tensors(monkeypatch, fresh):
    monkeypatch.setattr(preallocated, "_switch", lambda on: None)
    assert not convolved()


def test_only_the_first_empty_tensor_of_the_call_gets_the_memory():
    memory, seen = torch.zeros(2), []

    def call():
        seen.extend(torch.empty(size, dtype=memory.dtype) for size in ((3,), (0,), (0,)))
        return torch.ones(2)

    assert written_into(call, memory)().tolist() == [1, 1]
    starts = [each.untyped_storage().data_ptr() == memory.data_ptr() for each in seen]
    assert starts == [False, fuses(torch.ones(1, 1, 1, 1)), False]


@pytest.mark.parametrize("size", [(), (3,), (2, 3, 4), (2, 3, 4, 5), (1, 0, 4, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bfloat16])
def test_all_other_memory_of_the_call_is_made_as_always(size, dtype):
    formats = [torch.contiguous_format, torch.channels_last][: 1 + (len(size) == 4)]
    seen = []

    def call():
        seen.extend(torch.empty(size, dtype=dtype, memory_format=each) for each in formats)
        return torch.ones(2)

    written_into(call, torch.zeros(2))()
    for found, memory_format in zip(seen, formats, strict=True):
        expected = torch.empty(size, dtype=dtype, memory_format=memory_format)
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        assert found.stride() == expected.stride()


def test_a_failed_call_leaves_the_operator_as_it_was():
    memory = torch.ones(4)
    with pytest.raises(RuntimeError, match="no such key"):
        written_into(refused, memory)()
    empty = torch.empty(0, dtype=torch.float32)
    assert empty.untyped_storage().data_ptr() != memory.data_ptr()


def test_threads_that_write_in_place_at_once_meet_only_their_own_memory():
    memories, wrong = [torch.zeros(1, 4, 9, 9) for _ in range(4)], []

    def repeat(memory):
        weight = torch.full((4, 4, 1, 1), 0.25)
        convolution = FusedConvolution("conv2d", (1, 1), (0, 0), (1, 1))
        call = convolution.bind(convolution.reorder(weight, memory.shape), None)
        for number in range(200):
            found = written_into(call, memory)(torch.full(memory.shape, float(number)))
            if not (found == number).all() or found.data_ptr() != memory.data_ptr():
                wrong.append(number)

    threads = [threading.Thread(target=repeat, args=(memory,)) for memory in memories]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
