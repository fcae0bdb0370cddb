"""Arrays, tensors and .npy files: which axes are channels, and any region as the whole's slice."""

import pickle

import numpy as np
import pytest
import torch
import zarr
from image_regions import FIRST, GREY16, RANDOM, RGB, reads_like

from spnb.io.open import open_source
from spnb.io.sources import ArraySource

ARRAYS = {
    "grey": (GREY16, GREY16[None, None] / np.float32(65535), 1),
    "channels last": (RGB, FIRST, 3),
    "channels first": (FIRST[0], FIRST, 3),
    "alpha dropped": (np.dstack([RGB, RGB[..., 0]]), FIRST, 3),
    "alpha kept": (np.dstack([RGB, RGB[..., :1]]), FIRST[:, [0, 1, 2, 0]], 4),
    "one channel last": (RGB[..., :1], FIRST[:, :1], 1),
    "batch": (np.concatenate([FIRST, 1 - FIRST]), np.concatenate([FIRST, 1 - FIRST]), 3),
    "grey to three": (GREY16, np.repeat(GREY16[None, None] / np.float32(65535), 3, 1), 3),
    "bool": (GREY16 > 30000, (GREY16 > 30000)[None, None].astype(np.float32), 1),
    "signed": (GREY16.astype(np.int32) - 99, GREY16[None, None].astype(np.float32) - 99, 1),
    "big endian": (GREY16.astype(">u2"), GREY16[None, None] / np.float32(65535), 1),
    "signal": (GREY16[0], GREY16[None, None, 0] / np.float32(65535), 1),
    "volume": (FIRST.reshape(1, 3, 1, 97, 131), FIRST.reshape(1, 3, 1, 97, 131), 3),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_array_and_npy(kind, tmp_path):
    array, reference, channels = ARRAYS[kind]
    reads_like(open_source(array, channels=channels), reference)
    np.save(tmp_path / "a.npy", array)
    source = open_source(tmp_path / "a.npy", channels=channels)
    assert source.name == "a.npy"
    reads_like(source, reference)
    assert len(pickle.dumps(source)) < 1000
    if array.dtype.isnative:  # a zarr's chunks are little
        zarr.create_array(tmp_path / "a.zarr", data=array, chunks=(16,) * array.ndim)
        source = open_source(tmp_path / "a.zarr", channels=channels)
        reads_like(source, reference)
        assert len(pickle.dumps(source)) < 1000


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_tensor(dtype):
    tensor = torch.rand(2, 3, 9, 11, dtype=dtype, requires_grad=True)
    reads_like(open_source(tensor), tensor.detach().float().numpy())
    reads_like(ArraySource(tensor), tensor.detach().float().numpy())


def test_size_settles_what_the_axes_are():
    volume = np.float32(RANDOM.random((3, 8, 3)))
    assert open_source(volume, size=(3, 8, 3), channels=1).shape == (1, 1, 3, 8, 3)
    assert open_source(volume, size=(8, 3)).shape == (1, 3, 8, 3)
    assert open_source(volume, size=(3, 8)).shape == (1, 3, 3, 8)
    reads_like(open_source(volume, size=(8, 3)), volume[None])
    assert open_source(np.zeros((2, 50)), size=(50,), channels=2).shape == (1, 2, 50)


def test_fortran_order_npy(tmp_path):
    np.save(tmp_path / "f.npy", np.asfortranarray(GREY16))
    reads_like(open_source(tmp_path / "f.npy", channels=1), GREY16[None, None] / np.float32(65535))
