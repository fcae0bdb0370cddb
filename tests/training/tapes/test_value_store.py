"""Tensors that wait on disk come back as they were, and each is written once."""

import pytest
import torch

from spnb.training.tapes import value_store
from spnb.training.tapes.value_store import DiskStore, OnDisk

BASE = torch.arange(2 * 3 * 256 * 80).reshape(2, 3, 256, 80)


@pytest.mark.parametrize(
    "tensor",
    [
        BASE.float(),
        BASE.double()[..., 3:70],  # with gaps
        BASE.to(torch.bfloat16).to(memory_format=torch.channels_last),
        BASE.float().movedim(1, -1),
        BASE[:, :1].float().expand(-1, 3, -1, -1),
        BASE % 2 == 0,
        torch.complex(BASE.float(), -BASE.float()),
        torch.complex(BASE.float(), -BASE.float()).conj(),
        torch.complex(BASE.float(), -BASE.float()).conj().imag,
    ],
    ids=[
        *["plain", "gaps", "channels last", "view", "expanded", "bool", "complex"],
        *["conjugate", "negative"],
    ],
)
def test_a_tensor_comes_back_as_it_was(tensor):
    store = DiskStore()
    kept = store.put(tensor)
    assert isinstance(kept, OnDisk)
    found = store.take(kept)
    assert found.dtype == tensor.dtype
    assert torch.equal(found, tensor)
    assert found.is_contiguous(memory_format=torch.channels_last) == tensor.is_contiguous(
        memory_format=torch.channels_last
    )


def test_a_tensor_is_written_once_and_its_room_is_used_again():
    store, tensor = DiskStore(), BASE.float()
    kept = store.put(tensor)
    again = store.take(kept)
    assert store.put(tensor) is kept and store.put(again) is kept
    assert store.size == tensor.nbytes
    del kept, tensor, again
    store.put(BASE.float() + 1)
    assert store.size == BASE.numel() * 4


def test_small_tensors_and_other_things_stay_where_they_are():
    store, small = DiskStore(), torch.ones(3)
    assert store.put(small) is small and store.put(None) is None and store.size == 0


def test_a_full_disk_is_told_with_a_way_out(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(value_store.os, "pwrite", full)
    with pytest.raises(RuntimeError, match=r"No space left on device: .* set TMPDIR to a folder"):
        DiskStore().put(BASE.float())
