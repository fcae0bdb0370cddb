"""Arrays of other libraries: read by region, by slices or through numpy."""

import numpy as np
import pytest
import torch
import zarr
from image_regions import FIRST, GREY16, RGB, reads_like
from PIL import Image

import spnb
from spnb.io.open import open_source
from spnb.io.readers import sliced
from spnb.io.readers.sliced import SlicedSource
from spnb.io.resident import ResidentSources
from spnb.io.sources import FileSource
from spnb.ir.region import Region


class Dataset:
    """What h5py's has: a shape, a type, and slices; all slices are kept."""

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype
        self.read = []

    def __getitem__(self, index):
        self.read.append(self.array[index].nbytes)
        return self.array[index]


class Lazy(Dataset):
    """What dask's and xarray's have: slices of it are such arrays, which numpy computes."""

    def __getitem__(self, index):
        return Lazy(self.array[index])

    def __array__(self, dtype=None, copy=None):
        return self.array


class Converted:
    """Only numpy makes an array of it."""

    def __array__(self, dtype=None, copy=None):
        return RGB


@pytest.mark.parametrize("kind", [Dataset, Lazy])
@pytest.mark.parametrize(
    ("array", "wanted", "channels"),
    [
        (RGB, FIRST, 3),
        (GREY16, GREY16[None, None] / np.float32(65535), 1),
        (np.concatenate([FIRST, 1 - FIRST]), np.concatenate([FIRST, 1 - FIRST]), 3),
        (np.dstack([RGB, RGB[..., 0]]), FIRST, 3),
    ],
)
def test_any_region_is_the_wholes_slice(kind, array, wanted, channels):
    reads_like(open_source(kind(array), channels=channels), wanted)


def test_only_the_region_is_read():
    data = Dataset(np.zeros((4096, 4096, 3), np.uint8))
    source = open_source(data)
    source.read(Region(((0, 1), (100, 164), (7, 39))))
    assert data.read == [64 * 32 * 3]


def test_what_numpy_converts_is_an_image():
    reads_like(open_source(Converted()), FIRST)
    reads_like(open_source(Image.fromarray(RGB)), FIRST)


def test_an_array_of_zarr_is_the_file_that_it_has(tmp_path):
    array = zarr.create_array(tmp_path / "a.zarr", shape=RGB.shape, chunks=(16, 16, 3), dtype="u1")
    array[:] = RGB
    source = open_source(array)
    assert type(source).__name__ == "ZarrSource"
    reads_like(source, FIRST)
    inside = zarr.create_group(tmp_path / "g.zarr").create_array("x/y", data=RGB)
    reads_like(open_source(inside), FIRST)
    in_memory = zarr.create_array({}, shape=RGB.shape, dtype="u1")
    in_memory[:] = RGB
    reads_like(open_source(in_memory), FIRST)


def test_ranks_read_a_file_that_is_written_in_bands(tmp_path, monkeypatch):
    monkeypatch.setattr(sliced, "BAND_BYTES", 4 * RGB[0].nbytes)
    data = Dataset(np.stack([RGB, 255 - RGB]).transpose(0, 3, 1, 2))
    resident = ResidentSources(tmp_path)
    source = open_source(data)
    file = resident.resident(source)
    assert isinstance(file, FileSource) and resident.resident(source) is file
    assert max(data.read) <= 4 * RGB[0].nbytes
    reads_like(file, open_source(data.array).read(Region.whole((2, *RGB.shape[:2]))))


def test_a_network_runs_on_one():
    net = torch.nn.Conv2d(3, 2, 3, padding=1)
    plan = spnb.plan(net, image_size=RGB.shape[:2], batch_size=1, stages=1, tiles=4)
    with spnb.InProcess(plan, progress=False) as session:
        found = session.infer(Dataset(RGB)).output
    with torch.no_grad():
        torch.testing.assert_close(torch.as_tensor(found), net(torch.as_tensor(FIRST)))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Dataset(np.zeros((4, 4), complex)), "Dataset is of type complex128"),
        (Dataset(np.zeros((5, 6, 7), np.uint8)), "Dataset has shape .5, 6, 7.: neither"),
        (Dataset(np.zeros((0, 3, 7, 7), np.uint8)), "Dataset is empty"),
        (object(), "cannot open a object: give an array"),
    ],
)
def test_what_is_no_image_is_refused_in_a_line(image, message):
    with pytest.raises(ValueError, match=message):
        open_source(image)


def test_a_source_has_the_name_of_its_type():
    assert SlicedSource(Dataset(FIRST)).name == "Dataset"
